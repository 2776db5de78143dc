"""Fetching a model from the Hugging Face hub: the one place where saqsam uses the network."""

from __future__ import annotations

from pathlib import Path

from saqsam.errors import CheckpointError

_PATTERNS = [
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "saqsam.safetensors",  # a packed model, see saqsam.drop_in.directory
]
_OTHERWISE = [
    "model.*.safetensors",
    "model.safetensors.index.*.json",
    "pytorch_model*.bin",
    "pytorch_model*.json",
]
"""Fetched only where there is nothing of the above: half precision, and pickles."""
_SECONDS = 5.0
_GIVE = "Check the network, or give the path of a file or directory"


def fetch(repo_id: str, revision: str | None = None) -> Path:
    """The local directory of a hub model's configuration and weights.

    Args:
        repo_id: such as ``facebook/sam-vit-base``.
        revision: a branch, tag or commit; ``None`` for the main branch.

    Raises:
        CheckpointError: no such model or revision, no network and no earlier copy of it, or a licence that
            has to be accepted.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RevisionNotFoundError,
    )

    name = repo_id if revision is None else f"{repo_id}@{revision}"

    def snapshot(patterns: list[str]) -> Path:
        path = snapshot_download(repo_id, revision=revision, allow_patterns=patterns, etag_timeout=_SECONDS)
        return Path(path)

    try:
        found = snapshot(_PATTERNS)
        if not any(found.glob("*.safetensors")):
            found = snapshot(_PATTERNS + _OTHERWISE)
        return found
    except LocalEntryNotFoundError as error:
        problem = "not on this machine, and the Hugging Face hub cannot be reached"
        raise CheckpointError(name, problem, _elsewhere(repo_id) or _GIVE) from error
    except RevisionNotFoundError as error:
        problem = "the Hugging Face hub has the model, but not this revision"
        raise CheckpointError(name, problem, "Give one of its branches, tags or commits") from error
    except HFValidationError as error:
        raise CheckpointError(name, "neither a file nor a valid hub id", _GIVE) from error
    except GatedRepoError as error:
        raise CheckpointError(
            name,
            "the Hugging Face hub gives it only to those who accepted its licence and are logged in",
            f"Accept it at https://huggingface.co/{repo_id}, then log in: `hf auth login`, or set HF_TOKEN",
        ) from error
    except HfHubHTTPError as error:
        raise CheckpointError(
            name,
            "the Hugging Face hub has no such model, or it needs a login",
            "Check the spelling, or give the path of a file or directory",
        ) from error


def _elsewhere(repo_id: str) -> str:
    """What of this model is on this machine: other revisions, to be asked for by name."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model")
    refs = folder / "refs"
    named = sorted(path.relative_to(refs).as_posix() for path in refs.rglob("*") if path.is_file())
    at = {(refs / name).read_text(encoding="utf-8").strip() for name in named}
    plain = sorted(path.name for path in (folder / "snapshots").glob("*") if path.name not in at)
    found = [f"{repo_id}@{revision}" for revision in [*named, *plain]]
    return f"On this machine there is {', '.join(found[:5])}" if found else ""
