"""Map the dtype names of safetensors and PyTorch to numpy and ml_dtypes."""

import ml_dtypes
import numpy as np

BY_TORCH = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint64": np.dtype(np.uint64),
    "uint32": np.dtype(np.uint32),
    "uint16": np.dtype(np.uint16),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
    "complex64": np.dtype(np.complex64),
    "complex128": np.dtype(np.complex128),
}

TO_TORCH = {dtype: name for name, dtype in BY_TORCH.items()}

# torch.FloatStorage and similar classes; newer dtypes are stored in untyped storages.
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}

STORAGE_OF = {name: storage for storage, name in STORAGES.items()}

BY_SAFETENSORS = {
    "F64": BY_TORCH["float64"],
    "F32": BY_TORCH["float32"],
    "F16": BY_TORCH["float16"],
    "BF16": BY_TORCH["bfloat16"],
    "F8_E4M3": BY_TORCH["float8_e4m3fn"],
    "F8_E4M3FNUZ": BY_TORCH["float8_e4m3fnuz"],
    "F8_E5M2": BY_TORCH["float8_e5m2"],
    "F8_E5M2FNUZ": BY_TORCH["float8_e5m2fnuz"],
    "I64": BY_TORCH["int64"],
    "I32": BY_TORCH["int32"],
    "I16": BY_TORCH["int16"],
    "I8": BY_TORCH["int8"],
    "U64": BY_TORCH["uint64"],
    "U32": BY_TORCH["uint32"],
    "U16": BY_TORCH["uint16"],
    "U8": BY_TORCH["uint8"],
    "BOOL": BY_TORCH["bool"],
    "C64": BY_TORCH["complex64"],
}

TO_SAFETENSORS = {dtype: name for name, dtype in BY_SAFETENSORS.items()}

FLOATS = {name: BY_TORCH[name] for name in ("float32", "bfloat16", "float16")}
"""Dtypes that weights are stored in or cast to."""
