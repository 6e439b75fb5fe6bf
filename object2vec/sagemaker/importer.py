"""From SageMaker's archive to our model: all the steps, and the cache of what they made.

model.tar.gz ── archive ─┬─ symbol ── network ─┬─ config
                         ├─ params ────────────┴─ weights
                         └─ metadata ── longest sequences, remarks
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from object2vec.cache import cache_folder, content_hash
from object2vec.config import ModelConfig
from object2vec.errors import ModelError
from object2vec.folder import Section, write_folder
from object2vec.sagemaker.archive import Artifact, open_archive
from object2vec.sagemaker.hyperparameters import max_seq_lens as stated_max_seq_lens
from object2vec.sagemaker.hyperparameters import remarks
from object2vec.sagemaker.network import Network, read_network
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
      sections: for the model card.
      says_lengths: whether the archive itself says how long sequences may be.
    """

    config: ModelConfig
    weights: Mapping[str, np.ndarray]
    sections: tuple[Section, ...]
    says_lengths: bool


@contextmanager
def read_archive(
    path: Path, scratch: Path, max_seq_lens: tuple[int, int] | None = None
) -> Iterator[ImportedModel]:
    """Reads an archive; what it yields can be used until the block ends.

    Args:
      path: a `model.tar.gz`, or the `model_algo-1` out of it.
      scratch: a folder for nameless temporary files, up to twice the size of the weights.
      max_seq_lens: longest sequences, for an archive that does not say them itself.

    Raises:
      ModelError: the archive cannot be used; names the member, the reason, what to do.
    """
    with ExitStack() as stack:
        try:
            artifact = stack.enter_context(open_archive(path, scratch))
            imported = _read(path, artifact, scratch, max_seq_lens)
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
    path: Path, artifact: Artifact, scratch: Path, given: tuple[int, int] | None
) -> ImportedModel:
    network = read_network(
        parse_symbol(artifact.symbol, artifact.symbol_name), artifact.symbol_name
    )
    stated = stated_max_seq_lens(artifact.metadata)
    lengths, origin = _longest_sequences(artifact, stated, given)
    config = config_of(network, lengths, artifact.symbol_name)
    arrays = read_params(artifact.params, artifact.params_size, artifact.params_name)
    weights = weights_of(network, config, arrays, artifact.params_name, scratch)
    sections = _sections(path, artifact, network, weights, origin)
    return ImportedModel(config, weights, sections, says_lengths=None not in stated)


def _longest_sequences(
    artifact: Artifact, stated: tuple[int | None, int | None], given: tuple[int, int] | None
) -> tuple[tuple[int, int], str]:
    """Both lengths, and where they come from, in words.

    No graph holds them: its inputs have no fixed length.
    """
    first, second = stated
    if first is not None and second is not None:
        return (first, second), f"{first} and {second}, as the archive says"
    if given is not None:
        return given, f"{given[0]} and {given[1]}, as was asked for; the archive does not say"
    where = ", ".join(artifact.metadata) or "no metadata at all"
    raise ModelError(
        f"the archive does not say how long sequences may be (looked for enc0_max_seq_len in:"
        f" {where}); say it with --infer_max_seqlens=F,B (from Python: max_seq_lens)"
    )


def _sections(
    path: Path,
    artifact: Artifact,
    network: Network,
    weights: Mapping[str, np.ndarray],
    origin: str,
) -> tuple[Section, ...]:
    source = [
        f"made by Amazon SageMaker's Object2Vec; read from {path.name!a}, sha256"
        f" `{content_hash(path)}`",
        f"graph: {artifact.symbol_name}; weights: {artifact.params_name}",
        f"longest sequences: {origin}",
    ]
    inferred = list(network.inferred)
    for name, array in weights.items():
        count = _num_not_finite(array)
        if count:
            inferred.append(
                f"{count:,} numbers of {name} are not finite; records that meet them are refused"
            )
    return (
        ("Where it comes from", source),
        ("What was inferred", inferred),
        (
            "Where its hyperparameters say other than its graph (the graph counts)",
            remarks(artifact.metadata, network),
        ),
    )


def _num_not_finite(array: np.ndarray) -> int:
    flat = array.reshape(-1)
    return sum(
        int(np.count_nonzero(~np.isfinite(flat[start : start + _CHECKED_AT_ONCE])))
        for start in range(0, flat.size, _CHECKED_AT_ONCE)
    )


def converted(path: Path, max_seq_lens: tuple[int, int] | None = None) -> Path:
    """The model directory of an archive, in the cache; made if it is not there yet.

    Args:
      max_seq_lens: as `read_archive`.

    Raises:
      ModelError: as `read_archive`; or the cache cannot be written.
    """
    try:
        return _converted(path, cache_folder() / "converted", max_seq_lens)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be converted into {cache_folder()}: {error.strerror or error};"
            " OBJECT2VEC_CACHE names another place"
        ) from error


def _converted(path: Path, folder: Path, max_seq_lens: tuple[int, int] | None) -> Path:
    name = f"{content_hash(path)[:32]}-{IMPORTER_VERSION}"
    # Lengths that were asked for make another model only where the archive says none.
    names = [name] if max_seq_lens is None else [name, f"{name}-%d,%d" % max_seq_lens]
    for candidate in names:
        if (folder / candidate).is_dir():
            return folder / candidate
    _LOG.info("converting %s, once", path)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
    try:
        with read_archive(path, folder, max_seq_lens) as imported:
            write_folder(unfinished / "model", imported.config, imported.weights, imported.sections)
        found = folder / (name if imported.says_lengths else names[-1])
        try:
            (unfinished / "model").rename(found)
        except OSError:
            if not found.is_dir():  # else another process was faster
                raise
        return found
    finally:
        shutil.rmtree(unfinished)
