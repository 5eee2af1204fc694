import django.core.validators
import django.db.models.deletion
import django.utils.timezone
import models_app.models
import uuid
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Client',
            fields=[
                ('uuid', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('paused', models.BooleanField(default=False, help_text='Uploads are rejected, and no round waits for this client.')),
                ('created_on', models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            name='FederatedModel',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=255)),
                ('aggregator', models.CharField(default='weighted_mean', help_text='Name of the aggregation rule.', max_length=255)),
                ('aggregator_args', models.JSONField(blank=True, default=dict, help_text='Arguments of the rule by name, such as {"beta": 0.1}.')),
                ('requirement', models.CharField(blank=True, help_text='When a round may start; empty: as soon as one update is ready.', max_length=255)),
                ('requirement_args', models.JSONField(blank=True, help_text="By position, such as [3], or by name, such as {'x': 3}.", null=True)),
                ('update_kind', models.CharField(choices=[('weights', 'Weights'), ('differences', 'Differences')], default='weights', max_length=16)),
                ('max_num_examples', models.PositiveBigIntegerField(blank=True, help_text='An update counts no more examples than this, whatever it claims.', null=True, validators=[django.core.validators.MinValueValidator(1)])),
                ('furthest_base_agg', models.PositiveIntegerField(blank=True, help_text='An update may be based on one of this many latest aggregates; empty: on any.', null=True, validators=[django.core.validators.MinValueValidator(1)])),
                ('update_schema', models.JSONField(blank=True, null=True)),
                ('client_agg_results_schema', models.JSONField(blank=True, help_text='JSON schema of the scores that clients report.', null=True)),
                ('score_metric', models.CharField(blank=True, help_text='Which of the numbers clients report is the score; empty: none is.', max_length=255)),
                ('lower_is_better', models.BooleanField(default=False, help_text='The score is a loss.')),
                ('max_score_drop', models.FloatField(blank=True, help_text='No version is made of an aggregate that scores worse than its parent by more.', null=True, validators=[django.core.validators.MinValueValidator(0)])),
                ('told_number', models.PositiveIntegerField(editable=False, help_text='Of the aggregate that latest.json tells, at least.', null=True)),
                ('allow_aggregation', models.BooleanField(default=True, help_text='Unset: the model is paused.')),
                ('pause_reason', models.TextField(blank=True, editable=False)),
                ('to_announce', models.DateTimeField(editable=False, help_text='When it was paused, until that is announced.', null=True)),
                ('failed_rounds', models.PositiveIntegerField(default=0, editable=False, help_text='In a row, since a round was published or resumed.')),
                ('created_on', models.DateTimeField(auto_now_add=True)),
                ('last_modified', models.DateTimeField(auto_now=True)),
                ('clients', models.ManyToManyField(blank=True, related_name='federated_models', to='models_app.client')),
                ('developer', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='models', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='ModelAggregate',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('number', models.PositiveIntegerField(help_text='Of the round that made it; the first is 1.')),
                ('result', models.FileField(max_length=1024, upload_to='aggregates')),
                ('validation_score', models.FloatField(blank=True, null=True)),
                ('to_announce', models.DateTimeField(editable=False, help_text='When its score dropped, until that is announced.', null=True)),
                ('created_on', models.DateTimeField(auto_now_add=True)),
                ('federated_model', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='aggregates', to='models_app.federatedmodel')),
                ('parent', models.OneToOneField(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='child', to='models_app.modelaggregate')),
            ],
        ),
        migrations.CreateModel(
            name='ClientAggregateScore',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('validation_results', models.JSONField()),
                ('created_on', models.DateTimeField(auto_now_add=True)),
                ('client', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='aggregate_scores', to='models_app.client')),
                ('aggregate', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='client_scores', to='models_app.modelaggregate')),
            ],
        ),
        migrations.CreateModel(
            name='AggregationRound',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('number', models.PositiveIntegerField(help_text='Of the aggregate it is to make: a round that fails leaves its number to the next.')),
                ('state', models.IntegerField(choices=[(0, 'Running'), (1, 'Published'), (2, 'Failed: an error; the updates are ready again'), (3, 'Rejected: too few usable updates; those that are left wait on')], default=0)),
                ('terms', models.JSONField(default=dict, help_text="The model's settings as they were when the updates were claimed.")),
                ('by_hand', models.BooleanField(default=False, help_text='Opened by a workflow that calls the connector step by step.')),
                ('attempt', models.PositiveIntegerField(default=1, help_text='The fencing token: whoever holds a lower one changes nothing.')),
                ('lease_expires_at', models.DateTimeField()),
                ('started_on', models.DateTimeField()),
                ('finished_on', models.DateTimeField(null=True)),
                ('request_id', models.CharField(blank=True, max_length=128)),
                ('updates_used', models.PositiveIntegerField(default=0)),
                ('updates_rejected', models.PositiveIntegerField(default=0)),
                ('bytes_read', models.PositiveBigIntegerField(default=0)),
                ('error', models.TextField(blank=True)),
                ('checkpoint', models.JSONField(help_text='How far an unfinished round got.', null=True)),
                ('fruitless_attempts', models.PositiveIntegerField(default=0, help_text='Attempts in a row that ended no further than they began.')),
                ('to_announce', models.BooleanField(default=models_app.models.events_wanted, editable=False)),
                ('federated_model', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='rounds', to='models_app.federatedmodel')),
                ('aggregate', models.OneToOneField(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='round', to='models_app.modelaggregate')),
                ('parent', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='rounds_based_on', to='models_app.modelaggregate')),
            ],
        ),
        migrations.CreateModel(
            name='ModelArtifact',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('values', models.FileField(max_length=1024, upload_to='artifacts')),
                ('version', models.CharField(max_length=255)),
                ('created_on', models.DateTimeField(auto_now_add=True)),
                ('federated_model', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='artifacts', to='models_app.federatedmodel')),
            ],
        ),
        migrations.AddField(
            model_name='federatedmodel',
            name='current_artifact',
            field=models.OneToOneField(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='models_app.modelartifact'),
        ),
        migrations.CreateModel(
            name='ModelUpdate',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('data', models.FileField(max_length=1024, upload_to='updates')),
                ('status', models.IntegerField(choices=[(0, 'Pending'), (1, 'Running'), (2, 'Complete'), (3, 'Failed'), (4, 'Invalid')], default=0)),
                ('rejection_reason', models.TextField(blank=True)),
                ('num_examples', models.PositiveBigIntegerField(default=1, validators=[django.core.validators.MinValueValidator(1)])),
                ('size', models.PositiveBigIntegerField(blank=True, null=True)),
                ('etag', models.CharField(blank=True, max_length=255)),
                ('storage_version', models.CharField(blank=True, max_length=255)),
                ('uploaded_on', models.DateTimeField(default=django.utils.timezone.now, help_text='When the object was stored: the newest of a client counts.')),
                ('norm', models.FloatField(blank=True, help_text='Of its difference from the parent, where it was measured.', null=True)),
                ('to_announce', models.BooleanField(default=models_app.models.events_wanted, editable=False)),
                ('created_on', models.DateTimeField(auto_now_add=True)),
                ('applied_aggregate', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='updates_applied', to='models_app.modelaggregate')),
                ('base_aggregate', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='updates_based_on', to='models_app.modelaggregate')),
                ('client', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='model_updates', to='models_app.client')),
                ('federated_model', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='model_updates', to='models_app.federatedmodel')),
                ('round', models.ForeignKey(blank=True, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='updates', to='models_app.aggregationround')),
            ],
        ),
        migrations.AddIndex(
            model_name='modelaggregate',
            index=models.Index(condition=models.Q(('to_announce__isnull', False)), fields=['id'], name='aggregates_to_announce'),
        ),
        migrations.AddConstraint(
            model_name='modelaggregate',
            constraint=models.UniqueConstraint(fields=('federated_model', 'number'), name='one_aggregate_per_round_number'),
        ),
        migrations.AddConstraint(
            model_name='clientaggregatescore',
            constraint=models.UniqueConstraint(fields=('aggregate', 'client'), name='one_score_per_client_and_aggregate'),
        ),
        migrations.AddIndex(
            model_name='aggregationround',
            index=models.Index(condition=models.Q(('state__gt', 0), ('to_announce', True)), fields=['id'], name='rounds_to_announce'),
        ),
        migrations.AddConstraint(
            model_name='aggregationround',
            constraint=models.UniqueConstraint(condition=models.Q(('state', 0)), fields=('federated_model',), name='one_running_round_per_model'),
        ),
        migrations.AddConstraint(
            model_name='modelartifact',
            constraint=models.UniqueConstraint(fields=('federated_model', 'version'), name='version_is_unique_within_model'),
        ),
        migrations.AddConstraint(
            model_name='federatedmodel',
            constraint=models.CheckConstraint(condition=models.Q(('furthest_base_agg__isnull', True), ('furthest_base_agg__gte', 1), _connector='OR'), name='furthest_base_agg_counts_from_one'),
        ),
        migrations.AddConstraint(
            model_name='federatedmodel',
            constraint=models.CheckConstraint(condition=models.Q(('max_num_examples__isnull', True), ('max_num_examples__gte', 1), _connector='OR'), name='max_num_examples_is_positive'),
        ),
        migrations.AddIndex(
            model_name='modelupdate',
            index=models.Index(fields=['federated_model', 'status'], name='updates_by_status'),
        ),
        migrations.AddIndex(
            model_name='modelupdate',
            index=models.Index(fields=['round', 'client'], name='updates_by_round'),
        ),
        migrations.AddIndex(
            model_name='modelupdate',
            index=models.Index(condition=models.Q(('status', 4), ('to_announce', True)), fields=['id'], name='updates_to_announce'),
        ),
        migrations.AddConstraint(
            model_name='modelupdate',
            constraint=models.UniqueConstraint(fields=('data', 'storage_version'), name='one_update_per_stored_object'),
        ),
        migrations.AddConstraint(
            model_name='modelupdate',
            constraint=models.CheckConstraint(condition=models.Q(('num_examples__gte', 1)), name='num_examples_is_positive'),
        ),
    ]
