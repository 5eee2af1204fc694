"""The models that are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models, transaction
from django.db.models import Q

from aggregation.freeze import FreezeSchedule
from aggregation.optimizers import NO_OPTIMIZER, Optimizer, create_optimizer
from aggregation.policies import TensorPolicies
from aggregation.pre_aggregation import build_rule
from aggregation.requirements import Requirement, create_requirement
from aggregation.rules import Rule
from aggregation.staleness import Staleness, create_staleness
from models_app.models.client import Client
from models_app.validation import problems_of

if TYPE_CHECKING:
    from aggregation.round import SecureTerms


class FederatedModel(models.Model):
    """A model that is trained by its clients.

    Raises
    ------
    ValidationError
        On saving, if the aggregation rule, the requirement or their arguments are not valid.
    """

    #: Whether the initial weights of a new model are stored in the transaction that creates it.
    initial_weights_follow = True

    class UpdateKind(models.TextChoices):
        """The meaning of a client's tensors."""

        WEIGHTS = "weights"
        DIFFERENCES = "differences"

    name = models.CharField(max_length=255)
    developer = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="models",
    )
    clients = models.ManyToManyField(Client, related_name="federated_models", blank=True)
    current_artifact = models.OneToOneField(
        "ModelArtifact", related_name="+", null=True, blank=True, on_delete=models.PROTECT
    )
    aggregator = models.CharField(
        max_length=255, default="weighted_mean", help_text="Name of the aggregation rule."
    )
    aggregator_args = models.JSONField(
        default=dict, blank=True, help_text='Arguments of the rule by name, such as {"beta": 0.1}.'
    )
    pre_aggregation = models.JSONField(
        default=list,
        blank=True,
        help_text='Steps before the rule, in their order, such as ["arc(f=2)", "nnm(f=2)"].',
    )
    server_optimizer = models.CharField(
        max_length=255,
        default=NO_OPTIMIZER.name,
        help_text="Takes a step from the parent towards the rule's result.",
    )
    server_optimizer_args = models.JSONField(
        default=dict,
        blank=True,
        help_text='Arguments of the optimizer by name, such as {"eta": 0.1}.',
    )
    differential_privacy = models.JSONField(
        null=True,
        blank=True,
        help_text='Noise in each aggregate, such as {"clip_norm": 1.0, "noise_multiplier": 1.0, '
        '"cohort": 100, "delta": 1e-5, "max_epsilon": 8.0}; empty: none.',
    )
    requirement = models.CharField(
        max_length=255,
        blank=True,
        help_text="When a round may start; empty: as soon as one update is ready.",
    )
    requirement_args = models.JSONField(
        null=True, blank=True, help_text='By position, such as [3], or by name, such as {"x": 3}.'
    )
    tensor_policies = models.JSONField(
        default=list,
        blank=True,
        help_text='What a round does with tensors, the first match counts: [["head.*", "exclude"]].',
    )
    freeze = models.JSONField(
        default=dict,
        blank=True,
        help_text="Tensors that rounds leave alone, by the number of the parent: "
        '{"odd": ["*.lora_A.*"], "even": ["*.lora_B.*"]}.',
    )
    secure_aggregation = models.JSONField(
        default=dict,
        blank=True,
        help_text="Only the sum of the updates is revealed: "
        '{"keeper": "<public key>", "clip_norm": 1.0}; empty: updates are not masked.',
    )
    update_kind = models.CharField(
        max_length=16, choices=UpdateKind.choices, default=UpdateKind.WEIGHTS
    )
    max_num_examples = models.PositiveBigIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="An update counts at most this many; empty: a multiple of the median of its round.",
    )
    furthest_base_agg = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="An update may be based on one of this many latest aggregates; empty: on any.",
    )
    staleness = models.CharField(
        max_length=255,
        blank=True,
        help_text="How late updates are discounted; empty: they count like any other.",
    )
    staleness_args = models.JSONField(
        default=dict, blank=True, help_text='Arguments by name, such as {"a": 0.5}.'
    )
    update_schema = models.JSONField(null=True, blank=True)
    client_agg_results_schema = models.JSONField(
        null=True, blank=True, help_text="JSON schema of the scores that clients report."
    )
    score_metric = models.CharField(
        max_length=255,
        blank=True,
        help_text="Which of the numbers that clients report is the score; empty: none is.",
    )
    lower_is_better = models.BooleanField(default=False, help_text="The score is a loss.")
    max_score_drop = models.FloatField(
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="An aggregate that scores worse than its parent by more than this is not published.",
    )
    target_round_seconds = models.FloatField(
        default=30.0,
        validators=[MinValueValidator(1)],
        help_text="Seconds that a round should take, if several functions may share it.",
    )
    max_functions = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Functions that may share a round; empty: as many as the deployment allows.",
    )
    pointer_digest = models.CharField(
        max_length=64, blank=True, editable=False, help_text="Of what latest.json says."
    )
    allow_aggregation = models.BooleanField(default=True, help_text="Unset: the model is paused.")
    pause_reason = models.TextField(blank=True, editable=False)
    event_pending = models.DateTimeField(
        null=True,
        editable=False,
        help_text="When it was paused, until the event has been published.",
    )
    failed_rounds = models.PositiveIntegerField(
        default=0, editable=False, help_text="In a row, since a round succeeded or it was resumed."
    )
    pruned_before = models.DateTimeField(
        null=True,
        editable=False,
        help_text="Records of updates uploaded before this were deleted: such uploads are refused.",
    )
    created_on = models.DateTimeField(auto_now_add=True)
    last_modified = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(furthest_base_agg__isnull=True) | Q(furthest_base_agg__gte=1),
                name="furthest_base_agg_counts_from_one",
            ),
            models.CheckConstraint(
                condition=Q(max_num_examples__isnull=True) | Q(max_num_examples__gte=1),
                name="max_num_examples_is_positive",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        super().clean()
        problems = problems_of(self)
        if problems:
            raise ValidationError(problems)

    def save(self, *args: Any, **kwargs: Any) -> None:
        with transaction.atomic():
            if self.pk:  # No round is claimed, and charged, between the check and the write.
                list(FederatedModel.objects.select_for_update().filter(pk=self.pk).values("pk"))
            self.clean()
            super().save(*args, **kwargs)

    def secure_terms(self) -> SecureTerms | None:
        """Return how updates are masked, if they are; raise `RuleError` if the model does not allow it."""
        if not self.secure_aggregation:
            return None
        # Few models have masked updates, and a cold start does not pay for them.
        from models_app.secure_aggregation import secure_terms

        return secure_terms(self)

    def rule(self) -> Rule:
        """Return the aggregation rule with its arguments and the steps before it."""
        return build_rule(self.aggregator, self.aggregator_args, self.pre_aggregation)

    def optimizer(self) -> Optimizer:
        """Return the server optimizer with its arguments."""
        return create_optimizer(self.server_optimizer, self.server_optimizer_args)

    def policies(self, number: int = 0) -> TensorPolicies:
        """Return the tensors' policies in the round that succeeds the aggregate of a number."""
        schedule = FreezeSchedule.from_json(self.freeze)
        return TensorPolicies.from_list(self.tensor_policies, schedule.frozen_at(number))

    def requirement_object(self) -> Requirement:
        """Return the requirement with its arguments."""
        return create_requirement(self.requirement, self.requirement_args)

    def staleness_object(self) -> Staleness:
        """Return the discount of late updates with its arguments."""
        return create_staleness(self.staleness, self.staleness_args)
