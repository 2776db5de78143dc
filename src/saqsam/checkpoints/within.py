"""The SAM within a checkpoint: what stands before its names, and what lies beside it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from saqsam.checkpoints.reading import Checkpoint, refuse_shared
from saqsam.errors import CheckpointError, CorruptCheckpoint
from saqsam.families.foreign import foreign_family
from saqsam.families.registry import FAMILIES

_ENCODERS = ("image_encoder", "vision_encoder")
_PROMPTS = ("prompt_encoder", "sam_prompt_encoder")
_DECODERS = ("mask_decoder", "sam_mask_decoder")
_OTHERS = ("shared_image_embedding", "no_mem_embed", "no_memory_embedding")
_PARTS = (*_ENCODERS, *_PROMPTS, *_DECODERS, *_OTHERS)
_IGNORED = ("pixel_mean", "pixel_std")  # the same for every SAM
_WRAPPERS = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
"""What PyTorch's own wrappers put before the names of whatever they wrap, the whole model or a part."""
_AVERAGES = frozenset(
    (
        *("ema", "ema_model", "model_ema", "ema_state_dict", "state_dict_ema", "ema_weights"),
        *("averaged_model", "swa_model", "model_swa", "shadow", "teacher", "momentum_encoder", "target"),
    )
)
"""What the copies are called that training keeps beside the model it trains."""
_ADAPTERS = frozenset(("lora_A", "lora_B", "lora_embedding_A", "lora_magnitude_vector", "base_layer"))
_GIVE_SAM = "Give the weights of a SAM (ViT-B, ViT-L, ViT-H or other sizes), a SAM 2 or a SAM 3"
_MERGE = "Merge them in the program that wrote it, model.merge_and_unload(), and save the state_dict of that"
_SHOWN = 8

logger = logging.getLogger("saqsam")


def only_sam(checkpoint: Checkpoint) -> Checkpoint:
    """The tensors of the SAM in a checkpoint, under its own names; what is left out is told in a warning.

    Raises:
        CheckpointError: there is no SAM in it, or several that are equally likely, or it is another model.
    """
    names = [*checkpoint.tensors, *checkpoint.unreadable]
    prefix, own = _in_places(names)
    words = 2 if own else 1
    if not own:
        prefix = _prefix(checkpoint, names)
        own = {name: _own_name(name, prefix) for name in names if name.startswith(prefix)}
        own = {name: new for name, new in own.items() if new.split(".")[0] in (*_PARTS, *_IGNORED)}
        _check_family(checkpoint, set(own.values()), names)
    own = {
        name: new for name, new in own.items() if not any(family.naming.is_unused(new) for family in FAMILIES)
    }
    if any(_ADAPTERS & set(name.split(".")) for name in own.values()):
        raise CheckpointError(checkpoint.path, "holds adapters (LoRA) beside its weights", _MERGE)
    for name in own:
        if name in checkpoint.unreadable:
            raise checkpoint.unreadable[name]
    if len(set(own.values())) < len(own):
        twice = Counter(own.values()).most_common(1)[0][0]
        raise CheckpointError(checkpoint.path, f"holds '{prefix}{twice}' under two names", _GIVE_SAM)
    beside = [name.removeprefix(prefix) for name in checkpoint.tensors if name not in own]
    if beside:
        told = _groups(beside, words)
        logger.warning("%s: left out what is not the SAM's: %s", checkpoint.path, told)
    tensors = {new: checkpoint.tensors[name] for name, new in own.items()}
    refuse_shared(checkpoint.path, tensors.values(), checkpoint.size)
    return replace(checkpoint, tensors=tensors, metadata=_metadata(checkpoint, prefix), unreadable={})


def _in_places(names: Collection[str]) -> tuple[str, dict[str, str]]:
    """Of a model whose tensors lie in several places of a larger one's file: what stands before all names,
    and name in the file -> its own; nothing of any other file."""
    for places in (places for family in FAMILIES for places in family.naming.places):
        encoder, decoder, *_ = places
        prefix = next((_before(name, encoder) for name in names if _before(name, encoder) is not None), None)
        if prefix is None or not any(name.startswith(f"{prefix}{decoder}") for name in names):
            continue
        return prefix, {
            name: f"{new}{name.removeprefix(prefix + begins)}"
            for begins, new in places.items()
            for name in names
            if name.startswith(prefix + begins)
        }
    return "", {}


def _before(name: str, begins: str) -> str | None:
    """What stands before the words ``begins`` in a name, whole words; ``None`` where they are not in it."""
    before, found, _ = f".{name}".partition(f".{begins}")
    return f"{before}.".lstrip(".") if found else None


def _prefix(checkpoint: Checkpoint, names: Iterable[str]) -> str:
    """What stands before the names of the SAM: nothing, ``model.``, ``student.sam.`` ..."""
    parts: dict[str, Counter[str]] = {}
    for name in names:
        words = name.split(".")
        at = next((index for index, word in enumerate(words) if word in _PARTS), None)
        if at is not None:
            prefix = "".join(f"{word}." for word in words[:at])
            parts.setdefault(prefix, Counter())[words[at]] += 1
    encoders = {prefix: found for prefix, found in parts.items() if any(name in found for name in _ENCODERS)}
    whole = [prefix for prefix, found in encoders.items() if _is_whole(found)]
    chosen = [prefix for prefix in whole if not _AVERAGES & set(prefix.split("."))] or whole
    if len(chosen) > 1:
        several = ", ".join(f"'{prefix}'" for prefix in sorted(chosen)[:_SHOWN])
        raise CheckpointError(
            checkpoint.path,
            f"holds {len(chosen)} whole SAMs, whose names begin with {several}",
            "Save the one that you mean in a file of its own: torch.save(model.state_dict(), 'weights.pth')",
        )
    rest = encoders or parts
    return chosen[0] if chosen else max(rest, key=lambda prefix: rest[prefix].total(), default="")


def _is_whole(parts: Collection[str]) -> bool:
    """Whether a prompt encoder and a mask decoder are among the names of parts."""
    return any(name in parts for name in _PROMPTS) and any(name in parts for name in _DECODERS)


def _own_name(name: str, prefix: str) -> str:
    return ".".join(word for word in name.removeprefix(prefix).split(".") if word not in _WRAPPERS)


def _check_family(checkpoint: Checkpoint, own: set[str], names: Iterable[str]) -> None:
    whole = _is_whole({name.split(".")[0] for name in own})
    family = foreign_family(own if whole else own | set(names), anywhere=not own)
    if family:
        raise CheckpointError(checkpoint.path, f"the weights of {family}, not of a known family", _GIVE_SAM)
    if not any(name.split(".")[0] in _PARTS for name in own):
        for error in checkpoint.unreadable.values():
            if isinstance(error, CorruptCheckpoint):
                raise error
        some = ", ".join(sorted(checkpoint.tensors)[:3]) or "none"
        raise CheckpointError(
            checkpoint.path, f"not the weights of a SAM (its tensors: {some}, ...)", _GIVE_SAM
        )


def _groups(names: Iterable[str], words: int) -> str:
    """Names by their first word, or words: ``criterion.weight, optimizer (628 tensors)``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(".".join(name.split(".")[:words]), []).append(name)
    told = [
        found[0] if len(found) == 1 else f"{word} ({len(found)} tensors)" for word, found in groups.items()
    ]
    most = _SHOWN * words
    more = f" and {len(told) - most} more" if len(told) > most else ""
    return ", ".join(told[:most]) + more


def _metadata(checkpoint: Checkpoint, prefix: str) -> Mapping[str, object]:
    """What the innermost dictionary around the chosen names says of itself."""
    around = [level for level in checkpoint.levels if prefix.startswith(level)]
    return checkpoint.levels[max(around, key=len)] if around else checkpoint.metadata
