#!/usr/bin/python
"""Ansible module: certificates of a small authority of the fleet's own, issued where the playbook runs."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:
    MISSING = "cryptography"
else:
    MISSING = ""

DOCUMENTATION = """
module: certificate
short_description: Issue a certificate by an authority of one's own
description:
  - Makes the authority on first use, and the certificate of a service of a host when there is none, when
    less than C(renew_days) of its days are left, when its names differ or another authority issued it.
  - Everything lies in one folder on the machine where the module runs, which has to be the controller.
    The authority's key never leaves it.
options:
  authority:
    description: Folder of the authority.
    type: path
    required: true
  host:
    description: The host. Without it there is only the authority.
    type: str
    default: ""
  service:
    description: Whose certificate it is on the host, such as C(redis).
    type: str
    default: ""
  names:
    description: Names and addresses of the host under which its clients reach the service.
    type: list
    elements: str
    default: []
  days:
    description: How long a new certificate is valid.
    type: int
    default: 365
  renew_days:
    description: Days that must be left.
    type: int
    default: 30
"""

EXAMPLES = """
- name: Issue the certificate
  certificate:
    authority: /home/me/fleet/.secrets/authority
    host: data1
    service: redis
    names: [data1, 192.0.2.11]
  delegate_to: localhost
"""

RETURN = """
authority: {description: Path of the authority's certificate., type: str, returned: always}
certificate: {description: Path of the host's certificate., type: str, returned: with a host}
key: {description: Path of its key., type: str, returned: with a host}
"""

AUTHORITY_DAYS = 3650


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def read(cls, path: Path) -> Pair | None:
        """Read `<path>.pem` and `<path>.key`; nothing if one is missing."""
        try:
            certificate = x509.load_pem_x509_certificate(path.with_suffix(".pem").read_bytes())
            key = serialization.load_pem_private_key(path.with_suffix(".key").read_bytes(), None)
        except FileNotFoundError:
            return None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            return None
        return cls(certificate, key)

    def write(self, path: Path) -> None:
        """Write both, the key for its owner only."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for suffix, content in ((".key", key), (".pem", pem(self.certificate))):
            temporary = path.with_suffix(f"{suffix}.new")
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content)
            temporary.rename(path.with_suffix(suffix))


def pem(certificate: x509.Certificate) -> bytes:
    """The certificate as it is written."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def alternative_names(names: list[str]) -> x509.SubjectAlternativeName:
    """The names, each once and in order."""
    found: list[x509.GeneralName] = []
    for name in sorted(set(names)):
        try:
            found.append(x509.IPAddress(ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(found)


def build(common_name: str, days: int, issuer: Pair | None, names: list[str]) -> Pair:
    """A new certificate: one that may issue others if nobody issues it, else one for a service."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuing = issuer is None
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    issuer_key = issuer.key if issuer else key
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks differ.
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=issuing, path_length=0 if issuing else None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not issuing,
                key_cert_sign=issuing,
                crl_sign=issuing,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    if names:
        builder = builder.add_extension(alternative_names(names), critical=False).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
    return Pair(builder.sign(issuer_key, hashes.SHA256()), key)


def unfit(found: Pair | None, authority: Pair, names: list[str], renew_days: int) -> str:
    """Why a certificate has to be replaced; nothing if it can stay."""
    if found is None:
        return "there is none"
    certificate = found.certificate
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (InvalidSignature, ValueError):
        return "another authority issued it"
    if certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value != alternative_names(
        names
    ):
        return "its names differ"
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    if left < timedelta(days=renew_days):
        return f"{max(left.days, 0)} days are left"
    return ""


def shown(found: Pair | None) -> str:
    """One side of the diff."""
    if found is None:
        return ""
    names = found.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    listed = " ".join(str(name.value) for name in names)
    until = found.certificate.not_valid_after_utc.date().isoformat()
    return f"serial {found.certificate.serial_number:x}\nvalid until {until}\nnames {listed}\n"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep the module's other runs out, one for each host."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(params: dict[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Look, issue, report."""
    folder = Path(params["authority"])
    result: dict[str, Any] = {"changed": False, "authority": str(folder / "authority.pem")}
    with locked(folder):
        authority = Pair.read(folder / "authority")
        if authority is None:
            authority = build("Celery Fleet authority", AUTHORITY_DAYS, None, [])
            result["changed"] = True
            if not check_mode:
                authority.write(folder / "authority")
        if not params["host"]:
            return result
        path = folder / params["host"] / params["service"]
        found = Pair.read(path)
        if reason := unfit(found, authority, params["names"], params["renew_days"]):
            issued = build(params["host"], params["days"], authority, params["names"])
            result["changed"] = True
            result["diff"] = {
                "before_header": f"certificate of {params['service']}",
                "after_header": f"certificate of {params['service']} ({reason})",
                "before": shown(found),
                "after": shown(issued),
            }
            if not check_mode:
                issued.write(path)
    return result | {"certificate": f"{path}.pem", "key": f"{path}.key"}


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            "authority": {"type": "path", "required": True},
            "host": {"type": "str", "default": ""},
            "service": {"type": "str", "default": ""},
            "names": {"type": "list", "elements": "str", "default": []},
            "days": {"type": "int", "default": 365},
            "renew_days": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(msg=missing_required_lib(MISSING))
    module.exit_json(**run(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
