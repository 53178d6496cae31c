"""`aftermix push` and `--push`: a model folder with its card to the hub, through `huggingface_hub`."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, ModelCard, get_token, is_offline_mode
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # loaded lazily, out of mypy's sight

from aftermix.checkpoints.formats.lora.open import is_adapter
from aftermix.checkpoints.formats.vector_file import is_vector
from aftermix.command_end import join_command
from aftermix.errors import CheckpointError, ConfigError, RunFailedError
from aftermix.runs.records import BEST_FILE, MODEL_FOLDER

CARD = "README.md"
LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write."


def refuse_push(repo_id: str) -> None:
    """Raise :class:`ConfigError` when nothing can be uploaded as `repo_id`: before the work whose result it would be.

    Looks at the name, at offline mode, and at the login, for which it asks the hub once.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        found = f"is no name of a repository ({_summarise_error(error)})"
        raise ConfigError(repo_id, found, "Use NAME or OWNER/NAME.") from error

    if is_offline_mode():
        raise ConfigError(repo_id, "the hub is in offline mode", "Unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE.")
    if get_token() is None:
        raise ConfigError(repo_id, "there is no login to the hub", LOGIN)

    # A token alone says nothing: only the hub knows whether it still holds.
    try:
        HfApi().whoami()
    except Exception as error:  # whatever the client or its transport raises, the answer is the same: not now
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise ConfigError(repo_id, "the hub does not accept the login", LOGIN) from error
        found = f"the hub cannot be asked for the login ({_summarise_error(error)})"
        raise ConfigError(repo_id, found, "Try again when it can be reached.") from error


def push(folder: Path, repo_id: str, *, private: bool = False) -> str:
    """Upload the model in `folder` (a model, a stored vector, or the run that holds a model) and return its address.

    The repository is made if it is missing. Raises :class:`CheckpointError` for a folder without a model or a valid
    card, :class:`ConfigError` for what :func:`refuse_push` refuses and for `private` beside a public repository, and
    :class:`RunFailedError` when the upload breaks off; the folder stays as it is in every case.
    """
    model = find_model_folder(folder)
    refuse_push(repo_id)

    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=private or None, exist_ok=True)
        public = private and not api.model_info(url.repo_id).private
        if not public:
            api.upload_folder(repo_id=url.repo_id, folder_path=model, commit_message="Upload by aftermix")
    except Exception as error:  # as above: the remedy is the same for every cause
        remedy = f"The model is complete; upload it with `{join_command('aftermix', 'push', folder, repo_id)}`."
        raise RunFailedError(
            str(model), f"could not be uploaded as {repo_id} ({_summarise_error(error)})", remedy
        ) from error

    if public:
        found = f"{url.repo_id} is there already and is public"
        raise ConfigError("--private", found, "Make it private on the hub, name another one, or leave --private out.")
    return str(url)


def find_model_folder(folder: Path) -> Path:
    """The folder that is uploaded. Raises :class:`CheckpointError` for one without a model, or without a valid card."""
    model = folder / MODEL_FOLDER if (folder / BEST_FILE).is_file() else folder
    whole = (model / "config.json").is_file() and any(model.glob("*.safetensors"))
    if not (whole or is_vector(model) or is_adapter(model)):
        found = "expected a model, a stored vector or a finished run, found none of them"
        raise CheckpointError(str(model), found, "Name the output of `aftermix merge`, `search` or `diff`.")

    card = model / CARD
    try:
        ModelCard(card.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        found = f"is no model card that the hub takes ({_summarise_error(error)})"
        raise CheckpointError(str(card), found, "Write one, with metadata between two lines of `---`.") from error
    return model


def _summarise_error(error: BaseException) -> str:
    """The first line of what the library says."""
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)
