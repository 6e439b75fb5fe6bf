"""From SageMaker's archive to our model: all the steps, and the cache of what they made.

model.tar.gz ── archive ─┬─ symbol ── network ─┬─ config
                         ├─ params ────────────┴─ weights
                         └─ metadata ── longest sequences, remarks
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from object2vec.cache import cache_folder, content_hash, identity, move_in, unfinished_folder
from object2vec.config import MAX_SEQ_LEN, ModelConfig, StoredConfig
from object2vec.errors import ModelError
from object2vec.folder import CARD_FILE, WEIGHTS_FILE, Section, write_folder
from object2vec.sagemaker.archive import Artifact, open_archive
from object2vec.sagemaker.hyperparameters import max_seq_lens as stated_max_seq_lens
from object2vec.sagemaker.hyperparameters import remarks
from object2vec.sagemaker.network import read_network
from object2vec.sagemaker.params import read_params
from object2vec.sagemaker.symbol import parse_symbol
from object2vec.sagemaker.weights import config_of, weights_of

_LOG = logging.getLogger(__name__)

IMPORTER_VERSION = 1
"""Goes up when the same archive is to be read otherwise: the cache then converts anew."""

_CHECKED_AT_ONCE = 2**21  # numbers


@dataclass(frozen=True, slots=True, eq=False)
class ImportedModel:
    """What was found in an archive, in our words.

    Attributes:
      config: the model's configuration.
      weights: float32, as `folder.write_folder` takes them; large ones are mapped files.
      sections: for the model card; the first says where the model comes from.
      says_lengths: whether the archive itself says how long sequences may be, on both sides.
      sha256: of the archive, in hex.
    """

    config: ModelConfig
    weights: Mapping[str, np.ndarray]
    sections: tuple[Section, ...]
    says_lengths: bool
    sha256: str


@contextmanager
def read_archive(
    path: Path, scratch: Path, max_seq_lens: tuple[int, int] | None = None
) -> Iterator[ImportedModel]:
    """Reads an archive; what it yields can be used until the block ends.

    Args:
      path: a `model.tar.gz`, or the `model_algo-1` out of it.
      scratch: a folder for nameless temporary files, up to twice the size of the weights.
      max_seq_lens: longest sequences, for a side of which the archive does not say it.

    Raises:
      ModelError: the archive cannot be used; names the member, the reason, what to do.
    """
    try:
        before = identity(path)
        sha256 = content_hash(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    with ExitStack() as stack:
        try:
            artifact = stack.enter_context(open_archive(path, scratch))
            imported = _read(path, artifact, scratch, max_seq_lens, sha256)
            if identity(path) != before:
                raise ModelError("it changed while it was read; run again when it is complete")
        except ModelError as error:
            text = str(error)
            raise ModelError(text if text.startswith(str(path)) else f"{path}: {text}") from error
        except OSError as error:
            raise ModelError(
                f"{path}: {error.strerror or error} (reading it takes room for up to twice its"
                f" weights in {scratch})"
            ) from error
        yield imported


def _read(
    path: Path,
    artifact: Artifact,
    scratch: Path,
    given: tuple[int, int] | None,
    sha256: str,
) -> ImportedModel:
    network = read_network(
        parse_symbol(artifact.symbol, artifact.symbol_name), artifact.symbol_name
    )
    try:
        stated = stated_max_seq_lens(artifact.metadata)
    except ModelError:
        if given is None:
            raise
        stated = (None, None)  # what was asked for stands in for what cannot be used
    lengths, origin = _longest_sequences(artifact, stated, given)
    config = config_of(network, lengths, artifact.symbol_name)
    arrays = read_params(artifact.params, artifact.params_size, artifact.params_name)
    weights = weights_of(network, config, arrays, artifact.params_name, scratch)
    source = [
        f"made by Amazon SageMaker's Object2Vec; read from {path.name!a}, sha256 `{sha256}`",
        f"graph: {artifact.symbol_name}; weights: {artifact.params_name}",
        f"longest sequences: {origin}",
    ]
    remarked = remarks(artifact.metadata, network)
    sections = (
        ("Where it comes from", source),
        ("What was inferred", [*network.inferred, *_not_finite(weights)]),
        ("What its hyperparameters say besides, or other than its graph, which counts", remarked),
    )
    return ImportedModel(config, weights, sections, None not in stated, sha256)


def _longest_sequences(
    artifact: Artifact, stated: tuple[int | None, int | None], given: tuple[int, int] | None
) -> tuple[tuple[int, int], str]:
    """Both lengths, and where they come from, in words.

    No graph holds them: its inputs have no fixed length.
    """
    if given is None:
        given = (0, 0)
    lengths = tuple(g if s is None else s for s, g in zip(stated, given, strict=True))
    if 0 not in lengths:
        said = [
            f"{length}, as {'was asked for (the archive says none)' if s is None else 'it says'}"
            for length, s in zip(lengths, stated, strict=True)
        ]
        return (lengths[0], lengths[1]), f"in0 {said[0]}; in1 {said[1]}"
    where = ", ".join(artifact.metadata) or "no metadata at all"
    raise ModelError(
        "the archive does not say how long sequences may be (looked for enc0_max_seq_len in:"
        f" {where}); say it with --infer_max_seqlens=F,B (from Python: max_seq_lens)"
    )


def _not_finite(weights: Mapping[str, np.ndarray]) -> Iterator[str]:
    """A sentence for each array with NaN or infinities in it."""
    for name, array in weights.items():
        count = _num_not_finite(array)
        if count:
            yield f"{count:,} numbers of {name} are not finite; records that meet them are refused"


def _num_not_finite(array: np.ndarray) -> int:
    flat = array.reshape(-1)
    return sum(
        int(np.count_nonzero(~np.isfinite(flat[start : start + _CHECKED_AT_ONCE])))
        for start in range(0, flat.size, _CHECKED_AT_ONCE)
    )


def converted(path: Path, max_seq_lens: tuple[int, int] | None = None) -> Path:
    """The model directory of an archive, in the cache; made if it is not there, whole.

    Args:
      max_seq_lens: longest sequences, for a side of which the archive does not say it.

    Raises:
      ModelError: as `read_archive`; or the cache cannot be written.
      ValueError: a length is not in 1 to 5000.
    """
    for length in max_seq_lens or ():
        if not 1 <= length <= MAX_SEQ_LEN:
            raise ValueError(f"max_seq_lens: {length} is outside 1 to {MAX_SEQ_LEN}")
    folder = cache_folder() / "converted"
    try:
        return _converted(path, folder, max_seq_lens)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be converted into {folder}: {error.strerror or error};"
            " OBJECT2VEC_CACHE names another place"
        ) from error


def _converted(path: Path, folder: Path, max_seq_lens: tuple[int, int] | None) -> Path:
    # Lengths that were asked for make another model only where the archive says none.
    ends = ("",) if max_seq_lens is None else ("", "-{},{}".format(*max_seq_lens))
    sha256 = content_hash(path)
    for end in ends:
        found = folder / _name(sha256, end)
        if found.is_dir():
            if _is_whole(found):
                return found
            _LOG.warning("%s is damaged; %s is converted again", found, path)
            shutil.rmtree(found, ignore_errors=True)
    _LOG.info("converting %s, once", path)
    with unfinished_folder(folder, sha256[:8]) as unfinished:
        with read_archive(path, folder, max_seq_lens) as imported:
            write_folder(unfinished / "model", imported.config, imported.weights, imported.sections)
        # Not by the first hash: the archive may have been replaced since.
        found = folder / _name(imported.sha256, ends[0] if imported.says_lengths else ends[-1])
        move_in(unfinished / "model", found)
    for title, sentences in imported.sections[1:]:
        for sentence in sentences:
            _LOG.info("%s: %s", title, sentence)
    _LOG.info("converted; its card: %s", found / CARD_FILE)
    return found


def _name(sha256: str, end: str) -> str:
    return f"{sha256[:32]}-{IMPORTER_VERSION}{end}"


def _is_whole(folder: Path) -> bool:
    try:
        stated = StoredConfig.load(folder).weights_sha256
        return content_hash(folder / WEIGHTS_FILE) == stated
    except (ModelError, OSError):
        return False
