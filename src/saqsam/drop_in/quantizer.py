"""What ``SamModel.from_pretrained`` calls for a directory written by ``Sam.save_pretrained``.

``transformers`` lays the model out, opens the weight file and fills in by name what it knows; the packed
file has no such names. So the file is verified before anything is filled in, and afterwards the parts of
the model are replaced by those that ``saqsam.load`` builds from it: one way to read a file, not two.

This module is imported while ``transformers`` itself is, so what needs a ``SamModel`` is imported later.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from saqsam.drop_in.names import METHOD, WEIGHTS
from saqsam.errors import CheckpointError, CorruptCheckpoint, UsageError

if TYPE_CHECKING:
    from saqsam.pack.contents import PackedModel

_AGAIN = "Copy or download the whole directory again"


def register(registry: ModuleType) -> None:
    """Put saqsam's method into ``transformers.quantizers.auto``, unless it is there."""
    if METHOD not in registry.AUTO_QUANTIZATION_CONFIG_MAPPING:
        registry.register_quantization_config(METHOD)(SaqsamConfig)
    if METHOD not in registry.AUTO_QUANTIZER_MAPPING:
        registry.register_quantizer(METHOD)(SaqsamQuantizer)


class SaqsamConfig(QuantizationConfigMixin):
    """The ``quantization_config`` of a saved directory; what it says is for readers, except the hash.

    Attributes:
        recipe: name of the recipe.
        bits: such as ``w4a4``.
        format: version of the packed format.
        sha256: seal of the weight file that belongs to this configuration, in hexadecimal.
    """

    def __init__(
        self, recipe: str = "", bits: str = "", format: int = 0, sha256: str = "", **unknown: object
    ) -> None:
        unknown.pop("quant_method", None)
        if unknown:
            raise UsageError(
                f"quantization_config: unknown keys {sorted(unknown)}; "
                "a saqsam model is quantized by 'saqsam quantize' and only loaded here"
            )
        self.quant_method: Any = METHOD  # transformers lists its own methods only
        self.recipe, self.bits, self.format, self.sha256 = recipe, bits, format, sha256


class SaqsamQuantizer(HfQuantizer):
    """Loads packed models in ``from_pretrained``; it does not quantize."""

    requires_calibration = True
    quantization_config: SaqsamConfig

    def __init__(self, quantization_config: SaqsamConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.contents: tuple[PackedModel, Path] | None = None
        self.tied: dict[str, str] = {}

    def update_attn_implementation(self, config: Any) -> Any:
        """Called before weights are looked for and the model is laid out: the configuration that is used.

        Of what ``config.json`` says, only what :func:`checked_config` takes gets further; anything else, such
        as a choice of attention kernels, is dropped. The file with the weights is not said there, so that
        without saqsam no weights are found rather than none used.

        Raises:
            CorruptCheckpoint: no SAM has these sizes.
        """
        from saqsam.checkpoints.config import checked_config

        try:
            where = config.name_or_path or "config.json"
            checked: Any = checked_config(where, config.to_dict(), quantized=True)
        except CheckpointError as error:
            raise CorruptCheckpoint(error.path, error.problem, _AGAIN) from error
        for name in ("architectures", "dtype", "quantization_config"):
            setattr(checked, name, getattr(config, name))
        checked.name_or_path = config.name_or_path
        checked.transformers_weights = WEIGHTS
        return checked

    def update_device_map(self, device_map: Any) -> Any:
        """One device; ``auto`` and its kin mean the accelerator, if there is one.

        Raises:
            UsageError: the map spreads the model over several devices or the disk.
        """
        if device_map is None:
            return None
        if isinstance(device_map, str):
            found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            return {"": found or torch.device("cpu")}
        devices = {str(device) for device in device_map.values()}
        if len(devices) > 1 or "disk" in devices:
            raise UsageError(
                f"device_map: a saqsam model goes on one device, not {sorted(devices)}; "
                "give for instance device_map='cpu'"
            )
        return device_map

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Verify every byte of the file, and that it belongs to this configuration."""
        from saqsam.drop_in.directory import read_verified

        files = kwargs.get("checkpoint_files") or []
        if len(files) != 1:
            raise CheckpointError(model.config.name_or_path, f"no single {WEIGHTS} in it", "Copy it again")
        path = Path(files[0])
        self.contents = read_verified(path, model.config.to_dict(), self.quantization_config.sha256), path
        for module in model.modules():
            module._is_hf_initialized = True  # nothing is drawn at random, it would be thrown away
        # Nor is anything missed or tied by name until then; all three come back afterwards.
        self.tied, model.all_tied_weights_keys = model.all_tied_weights_keys, {}
        model._keys_to_ignore_on_load_missing = {".*"}
        model._keys_to_ignore_on_load_unexpected = {".*"}
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Give the model its parts from the verified contents, on the device and in the type asked for."""
        from saqsam.pack.convert import from_packed

        if self.contents is None:
            raise CheckpointError(model.config.name_or_path, f"its {WEIGHTS} was never read")
        contents, path = self.contents
        self.contents = None
        device, dtype = model.device, model.dtype
        quantized, _ = from_packed(contents, path)
        for name, part in quantized.named_children():
            setattr(model, name, part.to(device=device, dtype=dtype))
        for name, own in quantized.named_parameters(recurse=False):
            setattr(model, name, torch.nn.Parameter(own.to(device=device, dtype=dtype)))
        model.all_tied_weights_keys = self.tied
        model.tie_weights()
        for name in ("_keys_to_ignore_on_load_missing", "_keys_to_ignore_on_load_unexpected"):
            delattr(model, name)
        if hasattr(model.config, "transformers_weights"):
            del model.config.transformers_weights
        return model.requires_grad_(False)

    def is_serializable(self) -> bool:
        """``model.save_pretrained`` would write floats; ``Sam.save_pretrained`` writes integers."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Frozen is frozen."""
        return False
