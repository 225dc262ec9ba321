"""``unlearn report keygen``, ``sign`` and ``verify``: keys and signed statements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from unlearn.cli import options as opt
from unlearn.cli.console import emit, working
from unlearn.errors import InputError

PATH = click.Path(path_type=Path)


@click.command(epilog="\b\nExample:\n  unlearn report keygen officer.pem\n")
@click.argument("file", type=PATH)
@opt.shared_idle
def keygen(options: opt.Options, *, file: Path) -> None:
    """Make a key pair: FILE to sign with, and FILE.pub to check with.

    FILE is readable by its owner alone and has no passphrase: guard it, and give FILE.pub to
    whoever is to check. Neither is ever written over.
    """
    from unlearn.signing import key_id, public_path, write_new_key

    try:
        key = write_new_key(file)
    except OSError as error:
        raise InputError(f"{file}: the key cannot be written: {error.strerror}") from error
    public = public_path(file)
    document = {"key": str(file), "public": str(public), "key_id": key_id(key.public_key())}
    emit(options, document, f"{file}\n{public}\nkey id {document['key_id']}")


@click.command(
    epilog="\b\nExample:\n  unlearn report sign audit --key officer.pem --model unlearned-model\n"
)
@click.argument("directory", metavar="DIR", type=PATH)
@click.option("--key", "key_file", type=PATH, required=True, metavar="FILE", help="From keygen.")
@click.option(
    "--model",
    "model_dir",
    type=PATH,
    metavar="MODEL_DIR",
    help="The folder of the audited model; the digest of each of its files is signed. It is loaded "
    "first, to see that it is the model that was audited.",
)
@click.option(
    "--request", metavar="ID", help="The request's id, where the audit does not say it itself."
)
@click.option(
    "--model-signature",
    type=PATH,
    metavar="FILE",
    help="A file in DIR that signs the model by other means, for example one of model_signing; its "
    "digest is signed too.",
)
@opt.shared
@opt.trust
def sign(
    options: opt.Options,
    *,
    directory: Path,
    key_file: Path,
    model_dir: Path | None,
    request: str | None,
    model_signature: Path | None,
) -> None:
    """Sign the audit in DIR: writes DIR/statement.dsse.json.

    An in-toto statement in a DSSE envelope: the digests of audit.json and of the model's files, the
    verdicts, configuration and seeds, and what a signature does not prove. Reports that are in DIR
    are drawn again, so that they say it too.
    """
    from unlearn.cli.audit_folder import check_audit, redraw
    from unlearn.report.signature import sign_audit
    from unlearn.signing import key_id, read_private_key

    check_audit(directory)
    key = read_private_key(key_file)
    if model_dir is not None:
        with working(options) as progress:
            progress("loading the model", 0.0)
            _check_model(directory, model_dir, options)
            progress("loading the model", 1.0)
    written = sign_audit(directory, key, model_dir, request, model_signature)
    redraw(directory)
    document = {"statement": str(written), "key_id": key_id(key.public_key())}
    lines = [str(written), f"key id {document['key_id']}"]
    if model_dir is None:
        lines.append("note: no model file is named in it; --model MODEL_DIR names them")
    emit(options, document, "\n".join(lines))


def _check_model(directory: Path, model_dir: Path, options: opt.Options) -> None:
    from unlearn.cli.inputs import read_model
    from unlearn.report import read

    audited = read(directory).models.get("unlearned")
    if audited is None:
        raise InputError(f"{directory}: the audit names no unlearned model; leave --model out")
    if not model_dir.is_dir():
        raise InputError(f"{model_dir} is no folder; give the folder of the model")
    number_format = audited.dtype if audited.dtype in opt.DTYPES else options.dtype
    digest = read_model(str(model_dir), replace(options, dtype=number_format)).digest
    if digest != audited.digest:
        raise InputError(
            f"{model_dir} is not the model that was audited: its digest is {digest[:12]}…, the "
            f"audit's {audited.digest[:12]}…; `unlearn apply` writes the folder of an artifact"
        )


@click.command(
    epilog="\b\nExample:\n"
    "  unlearn report verify audit --key officer.pem.pub --model unlearned-model\n"
)
@click.argument("directory", metavar="DIR", type=PATH)
@click.option(
    "--key", "key_file", type=PATH, required=True, metavar="PUB", help="The signer's FILE.pub."
)
@click.option(
    "--model",
    "model_dir",
    type=PATH,
    metavar="MODEL_DIR",
    help="Check the files of the model too; otherwise only the audit is checked.",
)
@opt.shared_idle
def verify(
    options: opt.Options, *, directory: Path, key_file: Path, model_dir: Path | None
) -> None:
    """Check the signed statement in DIR, without a network.

    The signature, the digest of audit.json, what the statement says of it, and with --model the
    digest of each file of the model; says where something does not fit. What a signature does not
    prove is in the statement, in the reports and in docs/reports.md.

    Exit codes: 0 everything fits, 1 something does not, 2 there is nothing to check.
    """
    from unlearn.report.signature import signature_of, verify_audit
    from unlearn.report.statement import MODEL
    from unlearn.report.wording import visible
    from unlearn.signing import read_public_key

    found = verify_audit(directory, read_public_key(key_file), model_dir)
    lines = [visible(f"{one.where}: {one.problem}") for one in found]
    signature = None if found else signature_of(directory)
    if signature is not None:
        signed = signature.statement
        lines.append(f"the signature holds; verdict {signed.predicate.verdict} as signed")
        n_model = sum(one.name.startswith(MODEL) for one in signed.subject)
        if model_dir is not None:
            lines.append(f"all {n_model} files of the model are as signed")
        elif n_model:
            lines.append(f"not checked: {n_model} files of the model; see --model")
    document = {"good": not found, "mismatches": [one._asdict() for one in found]}
    emit(options, document, "\n".join(lines))
    raise click.exceptions.Exit(1 if found else 0)
