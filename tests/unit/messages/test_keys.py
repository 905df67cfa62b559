"""What is told of a key that was refused."""

from microvmd.messages.keys import KeyProblem, KeyRefused


def test_a_refusal_says_which_key_and_why() -> None:
    refused = KeyRefused(KeyProblem.UNUSABLE, "The KMS key k is disabled.")
    assert str(refused) == "The KMS key k is disabled."
    assert refused.problem is KeyProblem.UNUSABLE
