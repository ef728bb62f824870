"""Between torch and artifacts.

All but `to_arrays` copy. Both directions keep names, order, shapes and every bit, and never hand torch memory that
is read-only. bfloat16 crosses as its bits in uint16, with the logical dtype beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from flserve_app.artifact import Artifact
from flserve_app.errors import TaskError


def to_artifact(source: nn.Module | Mapping[str, torch.Tensor]) -> Artifact:
    """Return the artifact with the tensors of a module or state dict, in their order.

    Raises:
        TaskError: If an entry is not a tensor, or numpy cannot hold it (sparse, quantised, float8).
        ArtifactError: If a name is not allowed.
    """
    state: Mapping[str, Any] = source.state_dict() if isinstance(source, nn.Module) else source
    arrays = to_arrays(state)
    return Artifact(arrays, dtypes={name: "bfloat16" for name, value in state.items() if value.dtype is torch.bfloat16})


def to_arrays(source: nn.Module | Mapping[str, torch.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the tensors of a module or state dict as arrays over the same memory, in their order.

    Raises:
        TaskError: As `to_artifact`.
    """
    state: Mapping[str, Any] = source.state_dict() if isinstance(source, nn.Module) else source
    return {name: _to_array(name, value) for name, value in state.items()}


def to_state_dict(artifact: Artifact) -> dict[str, torch.Tensor]:
    """Return the tensors of an artifact as a state dict on the CPU; the caller may write to them."""
    return {name: _to_tensor(array, artifact.specs[name].dtype) for name, array in artifact.items()}


@torch.no_grad()
def load_into(module: nn.Module, artifact: Artifact) -> None:
    """Overwrite the state of a module, in place: all of it, or on an error nothing.

    Raises:
        TaskError: If names, shapes or dtypes are not those of the module.
    """
    state: dict[str, torch.Tensor] = module.state_dict()
    _check_names(state, artifact)
    for name, tensor in state.items():
        spec = artifact.specs[name]
        if (spec.shape, spec.dtype) != (tuple(tensor.shape), _dtype(tensor)):
            raise TaskError(
                f"tensor {name!r}: the model has {_dtype(tensor)} {tuple(tensor.shape)}, "
                f"the artifact has {spec.dtype} {spec.shape}"
            )
    # Only now, when every tensor fits: an error above leaves the module as it was.
    for name, tensor in state.items():
        if tensor.device.type == "cpu" and tensor.is_contiguous():
            np.copyto(_to_array(name, tensor), artifact[name])
        else:
            tensor.copy_(_to_tensor(artifact[name], artifact.specs[name].dtype))


def _check_names(state: Mapping[str, torch.Tensor], artifact: Artifact) -> None:
    missing = [name for name in state if name not in artifact]
    unknown = [name for name in artifact if name not in state]
    if missing or unknown:
        raise TaskError(
            f"the artifact is not for this model: it lacks {_listed(missing)} and has {_listed(unknown)} besides"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more if names else "nothing"


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _to_array(name: str, value: Any) -> np.ndarray[Any, Any]:
    if not isinstance(value, torch.Tensor):
        raise TaskError(f"state {name!r} is a {type(value).__name__}, not a tensor")
    try:
        tensor = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        bits = tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor
        return bits.numpy()
    except (RuntimeError, TypeError) as error:
        raise TaskError(f"tensor {name!r}: {value.dtype} in layout {value.layout} has no form in numpy") from error


def _to_tensor(array: np.ndarray[Any, Any], dtype: str) -> torch.Tensor:
    tensor = torch.from_numpy(array.copy())
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
