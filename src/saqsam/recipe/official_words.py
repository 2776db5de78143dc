"""The words of the published code (SAQ-SAM, PTQ4SAM, AHCPTQ): where each of its flags and keys is here.

Values that it calls otherwise, such as ``CAMS``, stand with the fields that take them (``option(also=...)``).
"""

from __future__ import annotations

from collections.abc import Mapping

OBJECTIVES: Mapping[str, str] = {
    "no": "none",
    "ori": "local",
    "original": "local",
    "CAMS": "par",
    "CLM": "par",
    "PAR": "par",
}
"""``--recon_encoder``, ``--recon_decoder`` and ``--CAM_loss``, as documented and as the code spells them."""
UNITS: Mapping[str, str] = {"per_stage": "stage", "per_block": "block", "per_layer": "layer"}
OBSERVERS: Mapping[str, str] = {
    "MinMaxObserver": "minmax",
    "AvgMinMaxObserver": "minmax",
    "MSEObserver": "mse",
    "AvgMSEObserver": "mse",
    "MSEFastObserver": "mse",
    "AvgMSEFastObserver": "mse",
    "PCTObserver": "percentile",
}

FLAGS: Mapping[str, str] = {
    "quant_encoder": "both halves are quantized; --only decoder leaves the encoder float",
    "quant_decoder": "both halves are quantized; --only encoder leaves the decoder float",
    "q_config": "--recipe; 'saqsam recipe import FILE' converts the file",
    "FFC": "clip.method=pcc, and --ffc of 'saqsam recipe import'",
    "PCC": "clip.method=pcc",
    "FFC_threshold": "clip.focus_threshold",
    "recon_encoder": "reconstruct.encoder, and --recon-encoder of 'saqsam recipe import'",
    "recon_decoder": "reconstruct.decoder, and --recon-decoder of 'saqsam recipe import'",
    "recon_unit": "reconstruct.unit",
    "CAM_loss": "reconstruct.encoder: PAR is par, ori is local",
    "CAMS": "reconstruct.encoder=par with reconstruct.unit=stage",
    "CLM": "reconstruct.decoder=par",
    "PAR": "reconstruct.encoder=par",
    "ori": "reconstruct.encoder=local, reconstruct.decoder=local",
    "alpha": "reconstruct.prompt_weight",
    "beta": "reconstruct.local_weight",
    "brecq": "recipe brecq",
    "calib_num": "calibration.images",
    "gpu2": "nothing: one device, --device",
    "eval": "'saqsam evaluate'",
    "show": "--show-dir of 'saqsam evaluate'",
    "show_dir": "--show-dir of 'saqsam evaluate'",
}
"""Flags of the test script."""
KEYS: Mapping[str, str] = {
    "bit": "encoder.weights, encoder.activations, decoder.weights and decoder.activations, or --bits w6a6",
    "observer": "weight_ranges.method and activation_ranges.method",
    "quantizer": "reconstruct.rounding and reconstruct.scales",
    "symmetric": "nothing: grids are asymmetric",
    "ch_axis": "nothing: weights have a range for each output channel, activations one for each tensor",
    "calibrate": "calibration.images",
    "recon": "the section reconstruct",
    "batch_size": "reconstruct.batch",
    "iters": "reconstruct.iterations",
    "iters_CAMS": "reconstruct.iterations",
    "weight_lr": "reconstruct.weight_rate",
    "scale_lr": "reconstruct.scale_rate",
    "weight": "reconstruct.rounding_weight",
    "b_range": "reconstruct.beta_start and reconstruct.beta_end",
    "warm_up": "reconstruct.warm_up",
    "drop_prob": "reconstruct.quantized_share",
    "keep_gpu": "nothing: activations stay on the model's device, --cache-gb limits them",
    "round_mode": "nothing: rounding is learned from the float weight",
    "BIG": "folds.bimodal_sign_flip",
    "AGQ": "attention_grid=log2",
    "threshold": "clip.focus_threshold",
    "global_num": "nothing: 128",
    "peak_distance": "nothing: 32",
    "peak_height": "nothing: 0.01",
    "cag": "activation_grids.projections=grouped",
    "group": "activation_grids.groups",
    "hluq": "activation_grids.mlp_hidden=hybrid",
}
"""Keys of its YAML files."""
_HERE = {name.lower(): here for name, here in {**KEYS, **FLAGS}.items()}


def here(word: str) -> str | None:
    """What an official flag or key, in any case, with dashes or not, is called here; ``None`` if neither."""
    return _HERE.get(word.lstrip("-").replace("-", "_").lower())
