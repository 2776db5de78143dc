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
_SECONDS = 5.0


def fetch(repo_id: str) -> Path:
    """The local directory of a hub model's configuration and safetensors weights.

    Raises:
        CheckpointError: no such model, or no network and no earlier copy of it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, allow_patterns=_PATTERNS, etag_timeout=_SECONDS))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            repo_id,
            "not on this machine, and the Hugging Face hub cannot be reached",
            "Check the network, or give the path of a file or directory",
        ) from error
    except HFValidationError as error:
        raise CheckpointError(repo_id, "neither a file nor a valid hub id") from error
    except HfHubHTTPError as error:
        raise CheckpointError(
            repo_id,
            "the Hugging Face hub has no such model, or it needs a login",
            "Check the spelling, or give the path of a file or directory",
        ) from error
