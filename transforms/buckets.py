"""Clients of buckets, with the credentials and endpoints of the usual environment.

For S3: `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` (plain http if it says so), the key of
the environment, of the machine, or, if boto3 is there, of a profile (obstore reads none).
For GCS and Azure: what obstore finds.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from obstore.store import AzureStore, GCSStore, S3Store


def open_bucket(scheme: str, bucket: str) -> Any:
    """obstore's store of a whole bucket; nothing is asked of the service yet."""
    # About a minute of trouble is waited out, request by request.
    retries: Any = {"max_retries": 6, "retry_timeout": timedelta(seconds=60)}
    # The default of 30 s is short for a part of 64 MiB.
    options: Any = {"timeout": timedelta(minutes=5), "connect_timeout": timedelta(seconds=10)}
    if scheme == "gs":
        return GCSStore(bucket, client_options=options, retry_config=retries)
    if scheme == "az":
        return AzureStore(bucket, client_options=options, retry_config=retries)
    config: Any = {}
    endpoint = s3_endpoint()
    if endpoint:
        config["endpoint"] = endpoint
        options["allow_http"] = endpoint.startswith("http://")
    return S3Store(
        bucket,
        config=config,
        client_options=options,
        retry_config=retries,
        credential_provider=_profile_credentials(),
    )


def s3_endpoint() -> str | None:
    """Where S3 is, if not at Amazon's own address."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _profile_credentials() -> Any:
    """Credentials as boto3 finds them, if the environment has no key and boto3 is there."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return None
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ModuleNotFoundError:
        return None
    session = boto3.Session()
    return Boto3CredentialProvider(session) if session.get_credentials() else None
