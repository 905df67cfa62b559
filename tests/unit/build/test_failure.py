"""The reason that the API shows for a failed build."""

from microvmd.build.failure import CONTAINER_BUILD_FAILED, BuildFailed


def test_a_reason_starts_with_its_code() -> None:
    assert BuildFailed("S3_NO_SUCH_KEY", "Gone.").reason == "S3_NO_SUCH_KEY: Gone."


def test_a_failed_dockerfile_has_the_live_text() -> None:
    failure = BuildFailed("CONTAINER_BUILD_FAILED", CONTAINER_BUILD_FAILED)
    assert failure.reason == "The container image build failed."
