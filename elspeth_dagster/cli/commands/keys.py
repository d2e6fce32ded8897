"""`keys`: what seals are signed with."""

from __future__ import annotations

from pathlib import Path

import click

from elspeth_dagster.cli.opening import sealing
from elspeth_dagster.cli.options import landscape_option
from elspeth_dagster.cli.printing import show


@click.group("keys")
def keys() -> None:
    """Make, show and change the key that seals are signed with.

    The key is a file that only its owner may read, named by ELSPETH_SIGNING_KEY. What is handed out, to whoever is to
    verify the record, is its verifier key, which `show` prints.

    \b
    elspeth-dagster keys generate --name tenders.example --to /secure/signing.key
    export ELSPETH_SIGNING_KEY=/secure/signing.key
    elspeth-dagster keys show
    """


@keys.command()
@click.option("--name", default="elspeth-dagster", show_default=True, help="What signatures are called by.")
@click.option("--to", "path", required=True, metavar="FILE", help="The new file; one that is there is never touched.")
def generate(name: str, path: str) -> None:
    """Make a key in a new file, mode 0600, and print its verifier key."""
    from elspeth_dagster.landscape.signing import make_key

    show([make_key(Path(path), name).verifier.vkey])


@keys.command("command")
@click.option("--name", default="elspeth-dagster", show_default=True, help="What signatures are called by.")
@click.option("--public-key", required=True, type=click.Path(path_type=Path), help="The public key, PEM or DER.")
@click.option("--to", required=True, type=click.Path(path_type=Path), metavar="FILE", help="The new file.")
@click.argument("words", nargs=-1, required=True, metavar="PROGRAM [ARGUMENT]...")
def command_key(name: str, public_key: Path, to: Path, words: tuple[str, ...]) -> None:
    """Let a program sign, by a key that stays in a KMS or HSM, and print the verifier key.

    The program gets the bytes on its standard input and prints their Ed25519 signature, as 64 bytes or in base64. It is
    run without a shell, and tried once. docs/evidence.md has such programs for AWS KMS and Vault.

    \b
    elspeth-dagster keys command --name tenders.example --public-key kms.pem --to /secure/kms.signer sign-with-kms audit
    export ELSPETH_SIGNING_KEY=/secure/kms.signer
    """
    from elspeth_dagster.landscape.signing import make_commanded

    show([make_commanded(to, name, public_key, words).verifier.vkey])


@keys.command("show")
@click.argument("path", metavar="[FILE]", envvar="ELSPETH_SIGNING_KEY")
def show_key(path: str) -> None:
    """Print the verifier key of a key file; by default of ELSPETH_SIGNING_KEY."""
    from elspeth_dagster.landscape.signing import read_signer

    show([read_signer(path).verifier.vkey])


@keys.command()
@click.option("--new", "path", required=True, metavar="FILE", help="The key file that signs from now on.")
@landscape_option
def rotate(path: str, url: str) -> None:
    """Let another key sign from now on. The one in ELSPETH_SIGNING_KEY signs that it hands over.

    Afterwards set ELSPETH_SIGNING_KEY to the new file, everywhere. What the old key has signed stays valid; who knows
    either key can verify all of it.
    """
    from elspeth_dagster.cli import verifying

    with sealing(url) as landscape:
        show(verifying.rotate(landscape, path))
