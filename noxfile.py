from pathlib import Path

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
    """Run the tests on every core (arguments after -- go to pytest)."""
    session.install("-e", ".[dev,bench,docs]")  # with the bench's peers, whose agreement a test checks, and the site
    session.run("pytest", "--numprocesses=auto", "--dist=worksteal", *session.posargs)


@nox.session
def oldest(session: nox.Session) -> None:
    """Run the tests of the models, compiled ones too, with the oldest torch that is supported."""
    session.install("-e", ".[dev]", "torch==2.11.*", "torchvision==0.26.*")
    session.run("pytest", "tests/norml", "tests/numerics", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Write docs/reference and the made parts of other pages (-- --check: compare only)."""
    session.install("-e", ".")
    session.run("python", "docs/generate.py", *session.posargs)


@nox.session
def site(session: nox.Session) -> None:
    """Build the documentation as a site in build/site; a warning is an error."""
    session.install("-e", ".[docs]")
    out = Path("build/site")
    session.run("sphinx-build", "-q", "-W", "--keep-going", "-d", "build/doctrees", "-c", "docs", ".", str(out))
    session.log(f"wrote {out / 'index.html'}")


@nox.session
def reproduction(session: nox.Session) -> None:
    """Write results/REPORT.md, what was reproduced of the paper, from the records."""
    session.install("-e", ".")
    session.run("python", "docs/reproduction.py")


@nox.session
def pictures(session: nox.Session) -> None:
    """Make the README's pictures from the records; needs Chromium."""
    session.install("-e", ".")
    session.run("python", "docs/pictures.py")


@nox.session
def page(session: nox.Session) -> None:
    """Look at the HTML page and the site in Chromium, with axe's rules of accessibility; needs Chromium and npm."""
    session.install("-e", ".[dev,docs]")
    with session.chdir(session.create_tmp()):
        session.run("npm", "pack", "--silent", "axe-core@4", external=True)
        [archive] = Path().glob("axe-core-4*.tgz")
        session.run("tar", "-xzf", str(archive), external=True)
        axe = Path("package/axe.min.js").resolve()
    session.run("pytest", "tests/browser", *session.posargs, env={"NORML_AXE": str(axe)})


@nox.session
def trust(session: nox.Session) -> None:
    """Run the long campaigns of docs/explanation/trust.md and keep what they find."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "tests.trust.flips", "--flips", "500", "--record", "results/trust/flips.json")
    session.run("python", "-m", "tests.trust.kills", "--kills", "200", "--record", "results/trust")
    session.run("pytest", "tests/trust", "-m", "slow or not slow", *session.posargs)


@nox.session
def scale(session: nox.Session) -> None:
    """As root: sweeps on Ray and Slurm, runs on several ranks, and their parts killed (docs/how-to/sweep.md)."""
    session.install("-e", ".[dev,ray]")
    session.run("pytest", "tests/scale", "-m", "slow or not slow", "-n0", *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """Hold the dependencies against the database of known vulnerabilities; needs the network."""
    session.install("-e", ".", "pip-audit")
    installed = Path(session.create_tmp()) / "installed.txt"
    installed.write_text(str(session.run("python", "-m", "pip", "freeze", "--exclude-editable", silent=True)))
    # Strict, or what the database does not answer for would count as free of vulnerabilities.
    session.run("pip-audit", "--strict", "--no-deps", "--disable-pip", "--requirement", str(installed))


@nox.session
def bench(session: nox.Session) -> None:
    """Time norml beside the same MAML in other libraries (-- --quick: seconds, one step each; -- --only SECTION)."""
    session.install("--upgrade", "-e", ".[bench]")
    session.run("python", "-m", "tests.benchmarks.speed", *session.posargs)
