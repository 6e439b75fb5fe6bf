"""What S3 does on its own side: copies of parts of objects, and the list of open uploads.

With boto3, because obstore has neither. Works on keys of one bucket; `objects.py` is its
only caller.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from object2vec.errors import StorageError
from transforms.storage import Piece

MIN_PART_BYTES = 5 << 20
"""S3 refuses smaller parts, but for the last."""
MAX_PART_BYTES = 5 << 30
_NUM_PARTS = 9_000  # of 10,000, so that the last, shorter ones fit
_NUM_THREADS = 4


class S3Server:
    """One bucket.

    Args:
      bucket: its name.
      endpoint: where S3 is; None is Amazon's own.
      read: bytes of an object: key, start, stop.
    """

    def __init__(
        self, bucket: str, endpoint: str | None, read: Callable[[str, int, int], bytes]
    ) -> None:
        self._bucket = bucket
        self._read = read
        config = Config(
            retries={"mode": "standard", "max_attempts": 8},
            connect_timeout=10,
            read_timeout=300,  # a copy of 5 GiB answers when it is done
            s3={"addressing_style": "path" if endpoint else "auto"},
            # Checksums of ours beside S3's own: other services with this API refuse them.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        session = boto3.Session()
        region = session.region_name or "us-east-1"
        self._client: Any = session.client(
            "s3", endpoint_url=endpoint, region_name=region, config=config
        )

    def abort_uploads(self, prefix: str) -> int:
        """Aborts every open multipart upload of keys that begin so; returns how many."""
        num_aborted = 0
        with self._errors("sweep", prefix):
            pages = self._client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
                for upload in page.get("Uploads", []):
                    self._abort(upload["Key"], upload["UploadId"])
                    num_aborted += 1
        return num_aborted

    def concatenate(self, key: str, pieces: Sequence[Piece]) -> None:
        """Makes one object of pieces of others (at least one byte), visible when complete.

        Ranges of 5 MiB and more are copied on the server; what lies between them passes
        through memory, at most four parts at a time.
        """
        total = sum(piece.length for piece in pieces)
        parts = plan_parts(pieces, max(MIN_PART_BYTES, -(-total // _NUM_PARTS)))
        with self._errors("publish", key):
            upload = self._client.create_multipart_upload(Bucket=self._bucket, Key=key)["UploadId"]
            try:
                with ThreadPoolExecutor(_NUM_THREADS) as pool:
                    jobs = (
                        pool.submit(self._upload, key, upload, number, part)
                        for number, part in enumerate(parts, 1)
                    )
                    etags = _results(list(jobs))
                size = self._uploaded_bytes(key, upload)
                if size != total:
                    raise StorageError(
                        f"cannot publish s3://{self._bucket}/{key}: the parts have {size} bytes,"
                        f" {total} were expected"
                    )
                self._complete(key, upload, etags)
            except BaseException:
                self._abort(key, upload)
                raise

    def _upload(self, key: str, upload: str, number: int, part: Sequence[Piece]) -> str:
        """One part; returns its etag."""
        place = {"Bucket": self._bucket, "Key": key, "UploadId": upload, "PartNumber": number}
        first = part[0]
        if len(part) == 1 and first.length >= MIN_PART_BYTES:
            result = self._client.upload_part_copy(
                **place,
                CopySource={"Bucket": self._bucket, "Key": first.part},
                CopySourceRange=f"bytes={first.offset}-{first.offset + first.length - 1}",
            )["CopyPartResult"]
        else:
            body = b"".join(self._read(p.part, p.offset, p.offset + p.length) for p in part)
            result = self._client.upload_part(**place, Body=body)
        return str(result["ETag"])

    def _uploaded_bytes(self, key: str, upload: str) -> int:
        pages = self._client.get_paginator("list_parts")
        pages = pages.paginate(Bucket=self._bucket, Key=key, UploadId=upload)
        return sum(part["Size"] for page in pages for part in page.get("Parts", []))

    def _complete(self, key: str, upload: str, etags: Sequence[str]) -> None:
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1)]
        try:
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
            )
        except (ClientError, BotoCoreError):
            # The reply may be lost, and the repetition refused, of a request that worked.
            if self._etag(key) != multipart_etag(etags):
                raise

    def _etag(self, key: str) -> str | None:
        try:
            return str(self._client.head_object(Bucket=self._bucket, Key=key)["ETag"])
        except (ClientError, BotoCoreError):
            return None

    def _abort(self, key: str, upload: str) -> None:
        try:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("NoSuchUpload", "404"):
                raise

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            said = error.response.get("Error", {})
            text = f"{said.get('Code', 'no code')}: {said.get('Message', 'no message')}"
            raise StorageError(f"cannot {action} s3://{self._bucket}/{key}: {text}") from None
        except BotoCoreError as error:
            raise StorageError(f"cannot {action} s3://{self._bucket}/{key}: {error}") from None


def plan_parts(pieces: Sequence[Piece], minimum: int) -> list[list[Piece]]:
    """Cuts pieces into the parts of a multipart upload, in order.

    Args:
      pieces: none of them empty.
      minimum: bytes of every part but the last, at most `MAX_PART_BYTES`.

    Returns:
      Parts of one long piece, to be copied, or of several short ones, to be gathered. None
      is longer than `MAX_PART_BYTES`; those of several pieces have `minimum` bytes or, at
      the end, fewer.

    Example:
      >>> for part in plan_parts([Piece("a", 0, 3), Piece("b", 0, 10)], minimum=5): print(part)
      [Piece(part='a', offset=0, length=3), Piece(part='b', offset=0, length=2)]
      [Piece(part='b', offset=2, length=8)]
    """
    parts: list[list[Piece]] = []
    gathered: list[Piece] = []
    missing = minimum
    for piece in pieces:
        rest = piece
        if gathered:
            head, rest = _cut(rest, missing)
            gathered.append(head)
            missing -= head.length
            if not missing:
                parts.append(gathered)
                gathered, missing = [], minimum
        while rest.length >= minimum:
            head, rest = _cut(rest, MAX_PART_BYTES)
            parts.append([head])
        if rest.length:
            gathered.append(rest)
            missing -= rest.length
    return [*parts, gathered] if gathered else parts


def _cut(piece: Piece, length: int) -> tuple[Piece, Piece]:
    length = min(length, piece.length)
    rest = Piece(piece.part, piece.offset + length, piece.length - length)
    return Piece(piece.part, piece.offset, length), rest


def multipart_etag(etags: Sequence[str]) -> str:
    """The etag S3 gives to an object made of parts with these etags.

    Source: the MD5 of the parts' binary MD5s, a dash, their number (S3 documents it as
    "not an MD5 digest of the data"). Another service's answer just does not match.
    """
    try:
        digests = b"".join(bytes.fromhex(etag.strip('"')) for etag in etags)
    except ValueError:
        return ""
    return f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(etags)}"'


def _results(jobs: Sequence[Any]) -> list[str]:
    """All results; on the first error those that have not begun are dropped."""
    try:
        return [job.result() for job in jobs]
    except BaseException:
        for job in jobs:
            job.cancel()
        raise
