"""The neighbours of Lambda as the settings name them: S3, STS and CloudWatch Logs.

In local mode they answer on our own API's port, and our own access key speaks to them.
"""

from microvmd.build.source import SourceSettings
from microvmd.node.aws_access import AwsAccess
from microvmd.service.keys import AccessKey
from microvmd.settings.settings import Settings


def source_settings(settings: Settings, key: AccessKey) -> SourceSettings:
    """Where builds fetch artifacts."""
    if not settings.aws.local:
        return SourceSettings(
            region=settings.region,
            s3_endpoint=settings.aws.s3_endpoint,
            sts_endpoint=settings.aws.sts_endpoint,
        )
    return SourceSettings(
        region=settings.region,
        s3_endpoint=settings.api.url,
        sts_endpoint=settings.api.url,
        access_key=key.access_key,
        secret_key=key.secret_key,
    )


def aws_access(settings: Settings, key: AccessKey) -> AwsAccess:
    """Where roles are assumed and logs are delivered."""
    if not settings.aws.local:
        return AwsAccess(
            region=settings.region,
            sts_endpoint=settings.aws.sts_endpoint,
            logs_endpoint=settings.aws.logs_endpoint,
        )
    return AwsAccess(
        region=settings.region,
        sts_endpoint=settings.api.url,
        logs_endpoint=settings.api.url,
        access_key=key.access_key,
        secret_key=key.secret_key,
    )
