"""Makes the Python code of Tidemark's .proto files, in `generated/` beside this file: python generate.py"""

import pathlib
import sys

from grpc_tools import protoc

HERE = pathlib.Path(__file__).resolve().parent
PROTO = HERE.parents[2] / "proto" / "proto"
GENERATED = HERE / "generated"


def main() -> int:
    GENERATED.mkdir(exist_ok=True)
    files = sorted(str(file) for file in PROTO.glob("tidemark/v1/*.proto"))
    return protoc.main(["protoc", f"-I{PROTO}", f"--python_out={GENERATED}", f"--grpc_python_out={GENERATED}", *files])


if __name__ == "__main__":
    sys.exit(main())
