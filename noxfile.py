import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_venv = "yes"
nox.options.default_venv_backend = "uv|virtualenv"


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install("ruff>=0.9")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, a file at a time on each core (arguments after -- go to pytest)."""
    session.install("-e", ".[dev]")
    session.run("pytest", "--numprocesses=auto", "--dist=loadfile", *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """Hold the dependencies against the database of known vulnerabilities; needs the network."""
    session.install("-e", ".", "pip-audit")
    done = session.run("pip-audit", "--skip-editable", success_codes=[0, 1], silent=True)
    session.log(done)
    if "No known vulnerabilities found" not in str(done):
        session.error("vulnerabilities were found, or the database was not reached and nothing was checked: see above")


@nox.session
def bench(session: nox.Session) -> None:
    """Time norml beside the same MAML in other libraries (arguments after -- go to the script)."""
    session.install("--upgrade", "-e", ".[bench]")
    session.run("python", "tests/benchmarks/speed.py", *session.posargs)
