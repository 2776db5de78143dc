"""The structures of ``csrc/saqsam_native.h``, field by field, for ``ctypes``."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p

VERSION = 1
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
