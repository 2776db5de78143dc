"""The structures of ``csrc/saqsam_native.h``, field by field, for ``ctypes``."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p

VERSION = 5
"""Of the header that these structures follow; a library of another version is not used."""


class LinearJob(ctypes.Structure):
    """``saqsam_linear_job``."""

    _fields_ = (
        ("rows", c_int64),
        ("columns", c_int64),
        ("inner", c_int64),
        ("codes", c_void_p),
        ("code_stride", c_int64),
        ("weight", c_void_p),
        ("weight_bits", c_int32),
        ("largest_code", c_int32),
        ("largest_step", c_int32),
        ("gelu", c_int32),
        ("offset", c_void_p),
        ("zero", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("values", c_void_p),
        ("value_stride", c_int64),
        ("value_columns", c_int64),
        ("residual", c_void_p),
        ("out", c_void_p),
        ("out_stride", c_int64),
        ("grid_scale", c_void_p),
        ("grid_inverse", c_void_p),
        ("grid_zero", c_void_p),
        ("grid_top", c_void_p),
    )


class NormJob(ctypes.Structure):
    """``saqsam_norm_job``."""

    _fields_ = (
        ("rows", c_int64),
        ("inner", c_int64),
        ("x", c_void_p),
        ("x_stride", c_int64),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("epsilon", c_float),
        ("lanes", c_int32),
        ("values", c_void_p),
        ("value_stride", c_int64),
        ("out", c_void_p),
        ("out_stride", c_int64),
        ("scale", c_float),
        ("zero", c_float),
        ("top", c_float),
    )


class AttentionJob(ctypes.Structure):
    """``saqsam_attention_job``."""

    _fields_ = (
        ("side", c_int64),
        ("window", c_int64),
        ("heads", c_int64),
        ("width", c_int64),
        ("codes", c_void_p),
        ("code_stride", c_int64),
        ("pooled", c_void_p),
        ("pooled_stride", c_int64),
        ("padding", c_void_p),
        ("query_zero", c_int32),
        ("key_zero", c_int32),
        ("value_zero", c_int32),
        ("query_top", c_int32),
        ("key_top", c_int32),
        ("value_top", c_int32),
        ("query_scale", c_float),
        ("score_scale", c_float),
        ("query_values", c_void_p),
        ("query_stride", c_int64),
        ("table_rows", c_void_p),
        ("table_columns", c_void_p),
        ("table_stride", c_int64),
        ("lanes", c_int32),
        ("map_scale", c_float),
        ("map_zero", c_float),
        ("map_top", c_float),
        ("level_limits", c_void_p),
        ("level_low", c_void_p),
        ("level_high", c_void_p),
        ("value_scale", c_float),
        ("output_scale", c_float),
        ("out_scale", c_float),
        ("out_zero", c_float),
        ("out_top", c_float),
        ("out", c_void_p),
        ("out_stride", c_int64),
    )


class CrossJob(ctypes.Structure):
    """``saqsam_cross_job``."""

    _fields_ = (
        ("prompts", c_int64),
        ("image", c_int64),
        ("tokens", c_int64),
        ("heads", c_int64),
        ("width", c_int64),
        ("image_codes", c_void_p),
        ("image_stride", c_int64),
        ("image_rows", c_int64),
        ("image_zero", c_int32),
        ("image_top", c_int32),
        ("token_codes", c_void_p),
        ("token_stride", c_int64),
        ("token_zero", c_int32),
        ("token_top", c_int32),
        ("values", c_void_p),
        ("value_stride", c_int64),
        ("value_zero", c_float),
        ("value_factor", c_float),
        ("score_scale", c_float),
        ("lanes", c_int32),
        ("map_scale", c_float),
        ("map_zero", c_float),
        ("map_top", c_float),
        ("level_limits", c_void_p),
        ("level_low", c_void_p),
        ("level_high", c_void_p),
        ("output_scale", c_float),
        ("out_scale", c_float),
        ("out_zero", c_float),
        ("out_top", c_float),
        ("out", c_void_p),
        ("out_stride", c_int64),
    )


class UpscaleJob(ctypes.Structure):
    """``saqsam_upscale_job``."""

    _fields_ = (
        ("prompts", c_int64),
        ("side", c_int64),
        ("inner", c_int64),
        ("first", c_int64),
        ("second", c_int64),
        ("masks", c_int64),
        ("x", c_void_p),
        ("first_weight", c_void_p),
        ("first_bias", c_void_p),
        ("norm_weight", c_void_p),
        ("norm_bias", c_void_p),
        ("epsilon", c_float),
        ("second_weight", c_void_p),
        ("second_bias", c_void_p),
        ("first_features", c_void_p),
        ("second_features", c_void_p),
        ("vectors", c_void_p),
        ("out", c_void_p),
    )


class ImageProjection(ctypes.Structure):
    """A ``projection`` of ``saqsam_image_job``."""

    _fields_ = (
        ("layer", ctypes.POINTER(LinearJob)),
        ("scale", c_float),
        ("zero", c_float),
        ("top", c_float),
        ("with_positions", c_int32),
    )


class ImageJob(ctypes.Structure):
    """``saqsam_image_job``."""

    _fields_ = (
        ("prompts", c_int64),
        ("rows", c_int64),
        ("inner", c_int64),
        ("attention", ctypes.POINTER(CrossJob)),
        ("output", ctypes.POINTER(LinearJob)),
        ("x", c_void_p),
        ("residual", c_void_p),
        ("residual_rows", c_int64),
        ("positions", c_void_p),
        ("position_rows", c_int64),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("epsilon", c_float),
        ("lanes", c_int32),
        ("values", c_void_p),
        ("projections", c_int32),
        ("projection", ImageProjection * 3),
    )
