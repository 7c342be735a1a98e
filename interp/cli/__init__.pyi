from interp.cli.main import main as run

__all__ = ["run"]
