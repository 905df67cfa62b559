"""What a token may open, and for how long."""

from pathlib import Path

import pytest

from microvmd.model.errors import Conflict, ValidationError
from tests.unit.api.handling import MANAGED, NOW, handled


@pytest.mark.anyio
async def test_tokens(tmp_path: Path) -> None:
    async with handled(tmp_path) as api:
        await api.plane.built()
        microvm = await api.running(ingressNetworkConnectors=[f"{MANAGED}SHELL_INGRESS"])
        which = {"microvmIdentifier": microvm, "expirationInMinutes": 60}
        ports = [{"port": 80}, {"range": {"startPort": 1, "endPort": 9}}]
        token = (await api("CreateMicrovmAuthToken", **which, allowedPorts=ports))["authToken"]
        claims = api.issuer.verify(token["X-aws-proxy-auth"])
        assert (claims.ports, claims.scope) == ("80,1-9", "http")
        assert claims.expires_at == NOW.timestamp() + 3600
        shell = (await api("CreateMicrovmShellAuthToken", **which))["authToken"]
        assert api.issuer.verify(shell["X-aws-proxy-auth"]).scope == "shell"
        other = await api.running(ingressNetworkConnectors=[f"{MANAGED}HTTP_INGRESS"])
        with pytest.raises(ValidationError) as refused:
            await api("CreateMicrovmShellAuthToken", **{**which, "microvmIdentifier": other})
        assert refused.value.message == (
            "Shell access requires SHELL_INGRESS network connector to be configured on the MicroVM."
        )
        both = [f"{MANAGED}ALL_INGRESS", f"{MANAGED}SHELL_INGRESS"]
        other = await api.running(ingressNetworkConnectors=both)
        with pytest.raises(ValidationError) as refused:
            await api("CreateMicrovmShellAuthToken", **{**which, "microvmIdentifier": other})
        assert refused.value.message == (
            "ALL_INGRESS cannot be combined with other ingress network connectors; "
            "use HTTP_INGRESS and/or SHELL_INGRESS instead"
        )
        with pytest.raises(ValidationError, match="too many entries"):
            await api("CreateMicrovmAuthToken", **which, allowedPorts=[{"port": 8080}] * 5000)
        with pytest.raises(ValidationError, match="ExpirationMinutes 61 exceeded"):
            await api("CreateMicrovmShellAuthToken", **{**which, "expirationInMinutes": 61})
        await api("TerminateMicrovm", microvmIdentifier=microvm)
        with pytest.raises(Conflict, match="is in TERMINATING state"):
            await api("CreateMicrovmShellAuthToken", **which)
