"""The AWS services beside Lambda that local mode answers: S3, STS, IAM, logs and KMS, through moto.

``relay`` takes a request and hands it on; ``actions`` tells what it asks for, ``rights`` whether
its caller may; ``iam`` reads roles; ``headers`` are what the local server is told, ``errors`` are
in each service's manner, ``answers`` what we say ourselves.
"""
