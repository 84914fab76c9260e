"""SCRAM verifiers: what PostgreSQL stores of a password."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

ITERATIONS = 4096


def scram_verifier(password: str, salt: bytes, iterations: int = ITERATIONS) -> str:
    """What PostgreSQL stores of a password (RFC 5803); the password has ASCII characters only."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    parts = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${iterations}:{parts[0]}${parts[1]}:{parts[2]}"


def password_matches(password: str, stored: str | None) -> bool:
    """Whether the stored verifier is one of this password."""
    found = re.fullmatch(r"SCRAM-SHA-256\$(\d+):([^$]+)\$.+", stored or "")
    if not found or stored is None:
        return False
    expected = scram_verifier(password, base64.b64decode(found[2]), int(found[1]))
    return hmac.compare_digest(expected, stored)
