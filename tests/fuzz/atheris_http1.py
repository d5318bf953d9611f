"""Coverage-guided fuzzing of the HTTP/1 parser and framing: ``python tests/fuzz/atheris_http1.py --seconds 60``.

atheris (PyPI, Linux and macOS) sees which lines and branches of iocproxy an input reaches, and goes on from those that
reach new ones. It begins with the corpus beside this file. An input fails where readers disagree, or where anything
but a named error is raised; it is printed as a literal, and the exit code is not 0. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from random import Random

try:
    import atheris
except ImportError:
    sys.exit("atheris is missing: pip install atheris")

with atheris.instrument_imports(include=["iocproxy"]):
    from fuzzing.octets import mutate, try_input

CORPUS = Path(__file__).with_name("corpus")

#: Octets. Longer inputs make each run slower, and reach little that these do not.
MAX_INPUT = 4096


def one_input(data: bytes) -> None:
    try:
        try_input(data)
    except BaseException as error:
        # libFuzzer ends the process by itself: what is to be seen is printed here.
        print(f"\nFAILED: {type(error).__name__}: {error}\nthe input:\n{data!r}\n", flush=True)
        raise


def custom_mutator(data: bytes, max_size: int, seed: int) -> bytes:
    """Half of the time libFuzzer's own mutations, which know nothing of HTTP but what a comparison looks for."""
    random = Random(seed)
    if random.random() < 0.5:
        return atheris.Mutate(data, max_size)
    return mutate(data, random)[:max_size]


def run(arguments: list[str]) -> None:
    # libFuzzer starts its first argument once more where a merge needs a process of its own.
    atheris.Setup([f"{sys.executable} {__file__} --libfuzzer", *arguments], one_input, custom_mutator=custom_mutator)
    atheris.Fuzz()


def main() -> None:
    if sys.argv[1:2] == ["--libfuzzer"]:
        run(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="how long to run (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="a number; 0, which is the default, is a new one")
    parser.add_argument("--found", type=Path, help="a folder for inputs that reach something new (default: none kept)")
    parser.add_argument("--merge", action="store_true", help="add to the corpus what --found holds and it lacks")
    parser.add_argument("inputs", nargs="*", help="files to be tried once, instead of all that")
    options = parser.parse_args()
    # The octets of a failure are printed: no file is wanted for them.
    arguments = [f"-max_len={MAX_INPUT}", f"-exact_artifact_path={os.devnull}"]
    if options.inputs:
        arguments += options.inputs
    elif options.merge:
        arguments += ["-set_cover_merge=1", str(CORPUS), str(options.found or parser.error("--merge wants --found"))]
    else:
        arguments += [f"-max_total_time={options.seconds}", f"-seed={options.seed}", "-timeout=10"]
        if options.found:
            options.found.mkdir(parents=True, exist_ok=True)
            arguments += [str(options.found), str(CORPUS)]
        else:
            arguments.append("-seed_inputs=" + ",".join(map(str, sorted(CORPUS.iterdir()))))
    run(arguments)


if __name__ == "__main__":
    main()
