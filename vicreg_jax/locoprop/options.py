"""Settings of LocoProp's local losses."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from vicreg_jax.locoprop.matching import check_transfer

VARIANTS = ("m", "s")
LOCAL_FORMS = ("auto", "plain", "gram")


@dataclass(frozen=True)
class LocoPropOptions:
    r"""What the local losses are, and how their steps are computed.

    The defaults are the settings of the official code, except for `output_transfer`, which is 'sigmoid' there.

    Attributes:
        variant: 'm', the matching loss of each layer's transfer function, or 's', the squared loss.
        activation_rate: gamma, how far the target lies along the loss's negative gradient; positive.
        local_steps: local steps per minibatch; at least 1.
        local_form: how steps on a squared loss are computed: 'plain', through the batch; 'gram', from the Gram matrix
            :math:`X^\top X`, where the layer has such a form; 'auto', whichever takes fewer FLOPs. The results are
            equal up to rounding.
        transfers: transfer functions by layer name, each one of `TRANSFERS`; these override what is detected. Variant
            's' ignores them.
        output_transfer: transfer function of layers whose pre-activations are outputs of the model: what the loss
            applies to its logits, such as 'sigmoid' for the sigmoid cross-entropy.

    Raises:
        ValueError: a value is out of range or unknown; the message begins with the field's name.
    """

    variant: str = "m"
    activation_rate: float = 10.0
    local_steps: int = 10
    local_form: str = "auto"
    transfers: Mapping[str, str] = field(default_factory=dict)
    output_transfer: str = "identity"

    def __post_init__(self) -> None:
        """Checks every field."""
        if self.variant not in VARIANTS:
            raise ValueError(f"variant must be 'm' (matching) or 's' (squared); got {self.variant!r}")
        if not 0 < self.activation_rate < math.inf:
            raise ValueError(f"activation_rate must be positive and finite; got {self.activation_rate}")
        if not isinstance(self.local_steps, int) or self.local_steps < 1:
            raise ValueError(f"local_steps must be an integer of at least 1; got {self.local_steps!r}")
        if self.local_form not in LOCAL_FORMS:
            raise ValueError(f"local_form must be one of {', '.join(LOCAL_FORMS)}; got {self.local_form!r}")
        for name, transfer in self.transfers.items():
            check_transfer(f"transfers[{name!r}]", transfer)
        check_transfer("output_transfer", self.output_transfer)
