import django.core.validators
import django.db.models.deletion
import django.utils.timezone
import models_app.models.client
import models_app.models.events
import models_app.models.update
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
                ('name', models.CharField(blank=True, help_text='Shown instead of the id, and accepted by every command; unique.', max_length=100, validators=[models_app.models.client.validate_client_name])),
                ('paused', models.BooleanField(default=False, help_text='Uploads are rejected, and no round waits for this client.')),
                ('invite_hash', models.CharField(blank=True, editable=False, help_text='SHA-256 of its one-time token.', max_length=64)),
                ('invite_expires_on', models.DateTimeField(blank=True, editable=False, null=True)),
                ('secret_hash', models.CharField(blank=True, editable=False, help_text='SHA-256 of its secret; empty: it has none, or it was revoked.', max_length=64)),
                ('credentials_version', models.PositiveBigIntegerField(default=0, editable=False, help_text='Grows with each change of what the document by which it is authenticated says.')),
                ('credentials_written', models.PositiveBigIntegerField(default=0, editable=False, help_text='The version that the document has.')),
                ('created_on', models.DateTimeField(auto_now_add=True)),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('credentials_version__gt', models.F('credentials_written'))), fields=['uuid'], name='clients_with_credentials')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('invite_hash', ''), _negated=True), fields=('invite_hash',), name='one_client_per_token'), models.UniqueConstraint(condition=models.Q(('name', ''), _negated=True), fields=('name',), name='client_name_is_unique', violation_error_message='Another client has this name.')],
            },
        ),
        migrations.CreateModel(
            name='FederatedModel',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=255)),
                ('aggregator', models.CharField(default='weighted_mean', help_text='Name of the aggregation rule.', max_length=255)),
                ('aggregator_args', models.JSONField(blank=True, default=dict, help_text='Arguments of the rule by name, such as {"beta": 0.1}.')),
                ('pre_aggregation', models.JSONField(blank=True, default=list, help_text='Steps before the rule, in their order, such as ["arc(f=2)", "nnm(f=2)"].')),
                ('server_optimizer', models.CharField(default='none', help_text="Takes a step from the parent towards the rule's result.", max_length=255)),
                ('server_optimizer_args', models.JSONField(blank=True, default=dict, help_text='Arguments of the optimizer by name, such as {"eta": 0.1}.')),
                ('differential_privacy', models.JSONField(blank=True, help_text='Noise in each aggregate, such as {"clip_norm": 1.0, "noise_multiplier": 1.0, "cohort": 100, "delta": 1e-5, "max_epsilon": 8.0}; empty: none.', null=True)),
                ('requirement', models.CharField(blank=True, help_text='When a round may start; empty: as soon as one update is ready.', max_length=255)),
                ('requirement_args', models.JSONField(blank=True, help_text='By position, such as [3], or by name, such as {"x": 3}.', null=True)),
                ('tensor_policies', models.JSONField(blank=True, default=list, help_text='What a round does with tensors, the first match counts: [["head.*", "exclude"]].')),
                ('freeze', models.JSONField(blank=True, default=dict, help_text='Tensors that rounds leave alone, by the number of the parent: {"odd": ["*.lora_A.*"], "even": ["*.lora_B.*"]}.')),
                ('secure_aggregation', models.JSONField(blank=True, default=dict, help_text='Only the sum of the updates is revealed: {"keeper": "<public key>", "clip_norm": 1.0}; empty: updates are not masked.')),
                ('update_kind', models.CharField(choices=[('weights', 'Weights'), ('differences', 'Differences')], default='weights', max_length=16)),
                ('max_num_examples', models.PositiveBigIntegerField(blank=True, help_text='An update counts at most this many; empty: a multiple of the median of its round.', null=True, validators=[django.core.validators.MinValueValidator(1)])),
                ('furthest_base_agg', models.PositiveIntegerField(blank=True, help_text='An update may be based on one of this many latest aggregates; empty: on any.', null=True, validators=[django.core.validators.MinValueValidator(1)])),
                ('staleness', models.CharField(blank=True, help_text='How late updates are discounted; empty: they count like any other.', max_length=255)),
                ('staleness_args', models.JSONField(blank=True, default=dict, help_text='Arguments by name, such as {"a": 0.5}.')),
                ('update_schema', models.JSONField(blank=True, null=True)),
                ('client_agg_results_schema', models.JSONField(blank=True, help_text='JSON schema of the scores that clients report.', null=True)),
                ('score_metric', models.CharField(blank=True, help_text='Which of the numbers that clients report is the score; empty: none is.', max_length=255)),
                ('lower_is_better', models.BooleanField(default=False, help_text='The score is a loss.')),
                ('max_score_drop', models.FloatField(blank=True, help_text='An aggregate that scores worse than its parent by more than this is not published.', null=True, validators=[django.core.validators.MinValueValidator(0)])),
                ('target_round_seconds', models.FloatField(default=30.0, help_text='Seconds that a round should take, if several functions may share it.', validators=[django.core.validators.MinValueValidator(1)])),
                ('max_functions', models.PositiveIntegerField(blank=True, help_text='Functions that may share a round; empty: as many as the deployment allows.', null=True, validators=[django.core.validators.MinValueValidator(1)])),
                ('pointer_digest', models.CharField(blank=True, editable=False, help_text='Of what latest.json says.', max_length=64)),
                ('allow_aggregation', models.BooleanField(default=True, help_text='Unset: the model is paused.')),
                ('pause_reason', models.TextField(blank=True, editable=False)),
                ('event_pending', models.DateTimeField(editable=False, help_text='When it was paused, until the event has been published.', null=True)),
                ('failed_rounds', models.PositiveIntegerField(default=0, editable=False, help_text='In a row, since a round succeeded or it was resumed.')),
                ('pruned_before', models.DateTimeField(editable=False, help_text='Records of updates uploaded before this were deleted: such uploads are refused.', null=True)),
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
                ('number', models.PositiveIntegerField(help_text='Number of its round; the first is 1.')),
                ('result', models.FileField(max_length=1024, upload_to='aggregates')),
                ('server_optimizer', models.CharField(blank=True, editable=False, help_text='The optimizer that left the state.', max_length=255)),
                ('optimizer_state', models.FileField(blank=True, editable=False, help_text='What the next step of the optimizer starts from.', max_length=1024, upload_to='aggregates')),
                ('validation_score', models.FloatField(blank=True, null=True)),
                ('score_state', models.JSONField(editable=False, help_text='What the score averages: the metric, the cap of examples and the sum of weights.', null=True)),
                ('scores_pruned', models.BooleanField(default=False, editable=False, help_text="Its clients' scores were deleted; further ones are refused.")),
                ('event_pending', models.DateTimeField(editable=False, help_text='When its score dropped, until the event has been published.', null=True)),
                ('created_on', models.DateTimeField(auto_now_add=True)),
                ('federated_model', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='aggregates', to='models_app.federatedmodel')),
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
                ('aggregate', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='client_scores', to='models_app.modelaggregate')),
            ],
        ),
        migrations.CreateModel(
            name='AggregationRound',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('number', models.PositiveIntegerField(help_text='Number of the aggregate it is to make; after a failure the next round has it again.')),
                ('state', models.IntegerField(choices=[(0, 'Running'), (1, 'Published'), (2, 'Failed: an error; its updates are ready again'), (3, 'Rejected: too few usable updates; the usable ones are ready again')], default=0)),
                ('config_snapshot', models.JSONField(default=dict, help_text="The model's settings as they were when the updates were claimed.")),
                ('differential_privacy', models.JSONField(editable=False, help_text='Settings of the noise, and what the account had spent before the round.', null=True)),
                ('privacy_charge', models.PositiveBigIntegerField(default=0, editable=False, help_text="What the round adds to the model's privacy account, in units of 2^-48 of mu squared.")),
                ('privacy_released', models.TextField(blank=True, editable=False, help_text='Digests of the sets of updates of which a result has, or may have, become readable.')),
                ('sealed_seed', models.TextField(blank=True, editable=False, help_text='The seed of the noise, encrypted.')),
                ('external', models.BooleanField(default=False, help_text='Opened by a workflow that calls the connector step by step.')),
                ('attempt', models.PositiveIntegerField(default=1, help_text='The fencing token: an earlier attempt cannot change the round.')),
                ('lease_expires_at', models.DateTimeField()),
                ('started_on', models.DateTimeField()),
                ('finished_on', models.DateTimeField(null=True)),
                ('request_id', models.CharField(blank=True, max_length=128)),
                ('updates_used', models.PositiveIntegerField(default=0)),
                ('updates_rejected', models.PositiveIntegerField(default=0)),
                ('bytes_read', models.PositiveBigIntegerField(default=0)),
                ('workers', models.JSONField(default=dict, help_text='What the functions did that shared the round; empty for one function.')),
                ('error', models.TextField(blank=True)),
                ('checkpoint', models.JSONField(help_text='The progress of an unfinished round.', null=True)),
                ('attempts_without_progress', models.PositiveIntegerField(default=0, help_text='Attempts in a row that did not get any further.')),
                ('event_pending', models.BooleanField(default=models_app.models.events.publishes_events, editable=False)),
                ('federated_model', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='rounds', to='models_app.federatedmodel')),
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
                ('federated_model', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='artifacts', to='models_app.federatedmodel')),
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
                ('num_steps', models.PositiveBigIntegerField(blank=True, help_text='Steps of local training, if the client states them.', null=True, validators=[django.core.validators.MinValueValidator(1)])),
                ('size', models.PositiveBigIntegerField(blank=True, null=True)),
                ('etag', models.CharField(blank=True, max_length=255)),
                ('storage_version', models.CharField(blank=True, help_text='The version or ETag in its event.', max_length=255)),
                ('version_id', models.CharField(blank=True, help_text='The version that is read; empty without versioning.', max_length=255)),
                ('uploaded_on', models.DateTimeField(default=django.utils.timezone.now, help_text='When the object was stored: a round takes the newest update of a client.')),
                ('norm', models.FloatField(blank=True, help_text='Of its difference from the parent, if the rule measures it.', null=True)),
                ('cosine', models.FloatField(blank=True, help_text="Of its difference from the parent and the aggregate's, if the rule compares updates.", null=True)),
                ('scaling_factor', models.FloatField(blank=True, help_text='Its share of the aggregate; empty before, and if a workflow made the aggregate.', null=True)),
                ('event_pending', models.BooleanField(default=models_app.models.events.publishes_events, editable=False)),
                ('published_status', models.SmallIntegerField(default=models_app.models.update.initial_published_status, editable=False, help_text="The status that the client's document shows; empty if it has no document.", null=True)),
                ('created_on', models.DateTimeField(auto_now_add=True)),
                ('applied_aggregate', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='updates_applied', to='models_app.modelaggregate')),
                ('base_aggregate', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='updates_based_on', to='models_app.modelaggregate')),
                ('client', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='model_updates', to='models_app.client')),
                ('federated_model', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='model_updates', to='models_app.federatedmodel')),
                ('round', models.ForeignKey(blank=True, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='updates', to='models_app.aggregationround')),
            ],
        ),
        migrations.AddIndex(
            model_name='modelaggregate',
            index=models.Index(condition=models.Q(('event_pending__isnull', False)), fields=['id'], name='aggregates_with_event'),
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
            index=models.Index(fields=['federated_model', 'id'], name='rounds_by_model'),
        ),
        migrations.AddIndex(
            model_name='aggregationround',
            index=models.Index(condition=models.Q(('privacy_charge__gt', 0)), fields=['federated_model'], name='rounds_with_charge'),
        ),
        migrations.AddIndex(
            model_name='aggregationround',
            index=models.Index(condition=models.Q(('event_pending', True), ('state__gt', 0)), fields=['id'], name='rounds_with_event'),
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
            index=models.Index(fields=['federated_model', 'id'], name='updates_by_model'),
        ),
        migrations.AddIndex(
            model_name='modelupdate',
            index=models.Index(fields=['federated_model', 'status', 'id'], name='updates_by_status'),
        ),
        migrations.AddIndex(
            model_name='modelupdate',
            index=models.Index(fields=['client', 'federated_model', 'uploaded_on'], name='updates_by_client'),
        ),
        migrations.AddIndex(
            model_name='modelupdate',
            index=models.Index(fields=['round', 'client'], name='updates_by_round'),
        ),
        migrations.AddIndex(
            model_name='modelupdate',
            index=models.Index(condition=models.Q(('published_status__isnull', False), models.Q(('published_status', models.F('status')), _negated=True)), fields=['federated_model'], name='updates_with_status'),
        ),
        migrations.AddIndex(
            model_name='modelupdate',
            index=models.Index(condition=models.Q(('event_pending', True), ('status', 4)), fields=['id'], name='updates_with_event'),
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
