"""The code that grpcio-tools generates from proto/, made anew when a .proto file is newer."""

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROTO = ROOT / "proto"
GENERATED = Path(__file__).resolve().parents[1] / "generated"
FILES = ("types", "sync_service", "write_service")


def generate():
    """Generates beside what is there and puts it in place at once: several may start."""
    from importlib.resources import files

    from grpc_tools import protoc

    known = str(files("grpc_tools") / "_proto")
    sources = [f"deltasync/v1/{name}.proto" for name in FILES]
    GENERATED.parent.mkdir(parents=True, exist_ok=True)
    # It goes however this ends, and what was there before with it.
    with tempfile.TemporaryDirectory(prefix="generated-", dir=GENERATED.parent) as beside:
        made, old = Path(beside) / "made", Path(beside) / "old"
        made.mkdir()
        outputs = [f"--python_out={made}", f"--grpc_python_out={made}"]
        if protoc.main(["protoc", f"-I{PROTO}", f"-I{known}", *outputs, *sources]) != 0:
            raise RuntimeError("the protocol does not compile")
        try:
            os.rename(made, GENERATED)
        except OSError:  # Somebody else was quicker, or an older one is there.
            os.rename(GENERATED, old)
            os.rename(made, GENERATED)


def is_current():
    made = GENERATED / "deltasync" / "v1" / "write_service_pb2_grpc.py"
    sources = (PROTO / "deltasync" / "v1").glob("*.proto")
    return made.exists() and made.stat().st_mtime >= max(s.stat().st_mtime for s in sources)


if not is_current():
    generate()
sys.path.insert(0, str(GENERATED))

from deltasync.v1 import sync_service_pb2 as sync  # noqa: E402
from deltasync.v1 import sync_service_pb2_grpc as sync_rpc  # noqa: E402
from deltasync.v1 import types_pb2 as types  # noqa: E402
from deltasync.v1 import write_service_pb2 as write  # noqa: E402
from deltasync.v1 import write_service_pb2_grpc as write_rpc  # noqa: E402

__all__ = ["sync", "sync_rpc", "types", "write", "write_rpc"]
