"""The house rules that a machine can check: imports flow down, the light path is light, what is documented parses."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("train", "compress", "export", "benchmarks")

# The core's packages from the ground up: a module imports from its own package and from those before it, never from one
# beside its own (a set). What stands in faceeraser/ itself comes last, in this order. A new module finds its place here.
PACKAGES: tuple[set[str], ...] = (
    {"shipped"},  # where the weights lie
    {"system"},
    {"face"},
    {"artifacts"},
    {"measurement"},
    {"model"},
    {"training", "conversion"},
    {"holding"},
    {"erasing"},
    {"__init__"},
    {"jobs", "serve", "inspecting"},
    {"commands"},
    {"cli"},
)
LIGHT = {
    "system",
    "face",
    "artifacts",
    "measurement",
    "__init__",
    "erasing",
    "holding",
    "jobs",
    "serve",
    "inspecting",
    "commands",
    "cli",
}
"""What runs on the base install."""
FLOOR = {name: height for height, names in enumerate(PACKAGES) for name in names}


def modules() -> list[Path]:
    return sorted(path for path in (ROOT / "faceeraser").rglob("*.py") if not is_only_a_docstring(path))


def is_only_a_docstring(path: Path) -> bool:
    return path.name == "__init__.py" and path.parent != ROOT / "faceeraser"


def place_of(path: Path) -> str:
    """A module by its place below faceeraser/: `face/finder`, `cli`."""
    return path.relative_to(ROOT / "faceeraser").with_suffix("").as_posix()


PLACES = {place_of(path) for path in modules()}


def scripts() -> list[Path]:
    return sorted(path for folder in SCRIPTS for path in (ROOT / folder).glob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), name_of(path))


def imported(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """(module, name) of every import, wherever it stands; name is None for `import module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            module = f"faceeraser.{node.module or ''}".rstrip(".") if node.level else node.module or ""
            for alias in node.names:
                yield module, alias.name


def own_modules(tree: ast.AST) -> set[str]:
    """The modules of faceeraser that a tree imports, by place; a name taken from the package itself counts as `__init__`."""
    places = set()
    for module, name in imported(tree):
        parts = module.split(".")
        if parts[0] == "faceeraser":
            longer = "/".join([*parts[1:], *([name] if name else [])])
            shorter = "/".join(parts[1:])
            places.add(longer if longer in PLACES else shorter if shorter in PLACES else "__init__")
    return places


# --- imports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    own, *rest = place_of(path).split("/")
    assert own in FLOOR, f"{name_of(path)} has no place in tests/test_house.py (see PACKAGES)"
    used = {name.split("/")[0] for name in own_modules(tree_of(path))}
    above = {name for name in used if FLOOR[name] >= FLOOR[own]} - ({own} if rest else set())
    assert not above, f"{name_of(path)} imports from {sorted(above)}, which do not come before {own}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Inside a package too there is a first module and a last."""
    for path in modules():
        place = place_of(path)
        assert place not in reached(place), f"{name_of(path)} is imported by a module that it imports"


def test_packages_are_few_and_say_what_they_are() -> None:
    packages = sorted(path for path in (ROOT / "faceeraser").glob("*/__init__.py"))
    assert 5 <= len(packages) <= 7 and {path.parent.name for path in packages} <= set(FLOOR)
    for path in packages:
        (only,) = tree_of(path).body  # importing a package costs nothing
        assert ast.get_docstring(tree_of(path)) and isinstance(only, ast.Expr)


@pytest.mark.parametrize("path", scripts(), ids=name_of)
def test_scripts_import_the_core_and_never_one_another(path: Path) -> None:
    others = {script.stem for script in scripts()} | set(SCRIPTS)
    tree = tree_of(path)
    crossed = {module for module, _ in imported(tree) if module.split(".")[0] in others}
    assert not crossed, f"{name_of(path)} imports {sorted(crossed)}; what two scripts need lives in faceeraser/"
    assert not {"sys.path"} & {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_the_core_does_not_import_scripts(path: Path) -> None:
    assert not {module.split(".")[0] for module, _ in imported(tree_of(path))} & set(SCRIPTS)


def test_the_rule_of_flow_can_fail() -> None:
    """The negative control: an import that goes up is seen however it is written."""
    for line in (
        "from faceeraser.training import fit",
        "from faceeraser.training.fit import Recipe",
        "import faceeraser.training.fit as f",
        "def late():\n    from faceeraser.training.fit import Recipe",
    ):
        assert own_modules(ast.parse(line)) == {"training/fit"}, line
    assert own_modules(ast.parse("from faceeraser import load")) == {"__init__"}
    assert own_modules(ast.parse("from faceeraser import cli")) == {"cli"}


def reached(start: str) -> set[str]:
    """The modules of faceeraser that one imports, and those that they import, and so on."""
    places: set[str] = set()
    waiting = [start]
    while waiting:
        new = IMPORTS[waiting.pop()] - places
        places |= new
        waiting += new
    return places


IMPORTS = {place_of(path): own_modules(tree_of(path)) for path in modules()}


def test_erasing_does_not_reach_the_trainer() -> None:
    """A checkpoint erases without the code that trained it, wherever the imports stand."""
    seen = reached("cli")
    assert {"model/inference", "model/checkpoint", "model/networks"} <= seen, "the walk misses what is imported late"
    assert not {name for name in seen if name.startswith(("training/", "conversion/"))}


def test_the_light_path_is_light() -> None:
    """The base install erases a photograph: nothing on the way may load a training framework."""
    light = [place for place in PLACES if place.split("/")[0] in LIGHT]
    names = [f"faceeraser.{place.replace('/', '.')}".removesuffix(".__init__") for place in light]
    assert len(names) > 40
    code = f"import sys, {', '.join(names)}\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert not {"torch", "tensorflow", "skimage", "pandas", "matplotlib"} & set(done.stdout.split())


# --- options -----------------------------------------------------------------------------------------------------------


OPTIONS = (
    ("model/config", "Config"),
    ("training/fit", "Recipe"),
    ("training/fit", "Beside"),
    ("training/finetuning", "Tuning"),
    ("training/pruning", "Pruning"),
    ("training/slimming", "Slimming"),
    ("training/quantizing", "Quantizing"),
    ("training/distilling", "Distilling"),
    ("training/preparing", "Options"),
    ("training/preparing", "Run"),
    ("model/quality", "Fidelity"),
    ("conversion/formats", "Format"),
    ("conversion/tflite", "TFLite"),
    ("conversion/tflite", "Flavour"),
    ("conversion/tflite_edits", "Edit"),
    ("conversion/coreml", "CoreML"),
    ("model/any_network", "AnyNetwork"),
    ("model/warp", "Sampling"),
    ("model/any_task", "Task"),
    ("training/any_compressing", "AnyTuning"),
    ("training/any_compressing", "AnyPruning"),
    ("training/any_compressing", "AnyQuantizing"),
)


def test_every_field_of_an_options_class_has_its_words() -> None:
    for file, name in OPTIONS:
        tree = tree_of(ROOT / "faceeraser" / f"{file}.py")
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
        stated = [k for k, node in enumerate(body) if isinstance(node, ast.AnnAssign)]
        fields = [k for k in stated if not ast.unparse(body[k].annotation).startswith("ClassVar")]
        assert fields
        for k in fields:
            doc = body[k + 1] if k + 1 < len(body) else None
            assert isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant), f"{name}: {ast.unparse(body[k])}"


# --- pickles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", modules() + scripts(), ids=name_of)
def test_nothing_is_unpickled(path: Path) -> None:
    tree = tree_of(path)
    pickles = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not {module.split(".")[0] for module, _ in imported(tree)} & pickles
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if ast.unparse(call.func) == "torch.load":
            assert options.get("weights_only") == "True", f"{name_of(path)}:{call.lineno}: torch.load"
        assert options.get("allow_pickle", "False") == "False", f"{name_of(path)}:{call.lineno}: allow_pickle"
    # `from torch import load` would hide the call from the line above.
    assert ("torch", "load") not in set(imported(tree))


# --- documented commands ---------------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command in a shell text: one a line or between semicolons, backslashes joined, no comments."""
    for line in text.replace("\\\n", " ").splitlines():
        command: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        for word in lexer:
            if set(word) <= set(";&|"):
                yield command
                command = []
            else:
                command.append(word)
        if command:
            yield command


def documented() -> list[tuple[str, list[str]]]:
    """(where, words) of the commands in the Markdown files' fenced blocks and in the docstrings' indented lines."""
    listed = []
    for page in [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]:
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M):
            if language in ("", "sh", "bash"):
                listed += [(page.name, command) for command in commands(block)]
    for path in modules() + scripts():
        lines = re.sub(r"\\\n\s*", " ", ast.get_docstring(tree_of(path)) or "").splitlines()
        indented = [line for line in lines if re.match(r"    (python|faceeraser|torchrun|make) ", line)]
        listed += [(name_of(path), command) for command in commands("\n".join(indented))]
    known = {"python", "torchrun", "make", "faceeraser"}
    # Variables may stand before the command: FACEERASER_NO_SKIP=1 make test.
    stripped = [(where, command[next((i for i, w in enumerate(command) if "=" not in w), 0) :]) for where, command in listed]
    unique = {(where, tuple(command)) for where, command in stripped if command and command[0] in known}
    return [(where, list(command)) for where, command in sorted(unique)]


def parser_of(script: str) -> ArgumentParser:
    path = ROOT / script
    assert path.is_file(), f"{script} is documented and does not exist"
    name = "documented_" + re.sub(r"\W", "_", script)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up there
        spec.loader.exec_module(module)
    build = getattr(sys.modules[name], "build_parser", None)
    assert build is not None, f"{script} has no build_parser()"
    return build()


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize(("where", "command"), documented(), ids=lambda v: v if isinstance(v, str) else " ".join(v))
def test_documented_commands_parse(where: str, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    tool, *rest = command
    if tool == "make":
        targets = [word for word in rest if "=" not in word and not word.startswith("-")]
        assert targets and set(targets) <= make_targets(), f"{where}: {shlex.join(command)}"
        return
    if tool == "faceeraser":
        parser, arguments = parser_of("faceeraser/cli.py"), rest
    else:
        # What stands before the script is python's or torchrun's own: `-m pytest`, `--nproc-per-node 2`.
        at = next((i for i, word in enumerate(rest) if word.endswith(".py")), None)
        if at is None:
            assert rest[:2] == ["-m", "pytest"], f"{where}: {shlex.join(command)} names no script"
            return
        parser, arguments = parser_of(rest[at]), rest[at + 1 :]
    try:
        parser.parse_args(arguments)
    except SystemExit as stop:
        assert stop.code == 0, f"{where}: {shlex.join(command)}\n{capsys.readouterr().err}"


def test_the_pages_document_commands() -> None:
    """A regular expression that finds nothing would make the tests around this one pass on an empty list."""
    assert ["faceeraser", "erase", "photo.jpg"] in in_order("README.md")
    assert sum(command[0] == "python" for command in in_order("README.md")) == 5
    assert sum(command[0] == "python" for command in in_order("docs/chain.md")) >= 15


def in_order(page: str) -> list[list[str]]:
    """The commands of a page's shell blocks, as they stand, one after another."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.S | re.M)
    lines = [command for language, block in blocks if language in ("", "sh", "bash") for command in commands(block)]
    return [command for command in lines if command[0] in ("python", "faceeraser", "bash")]


GIVEN = {"photos", "photo.jpg", "clip.mp4", "benchmark_model", "runner/aarch64"}
"""What a reader of the pages has: photographs, a video, Google's benchmark_model; and build_runner.sh makes the runner."""
WRITTEN = {"target", "json", "output"}
"""The flags and arguments that name what a command makes."""


@pytest.mark.parametrize("page", ["README.md", "docs/chain.md"])
def test_every_command_reads_what_is_given_or_what_one_before_it_wrote(page: str) -> None:
    there = set(GIVEN)
    for command in in_order(page):
        if command[0] == "bash":
            continue
        script = "faceeraser/cli.py" if command[0] == "faceeraser" else command[1]
        args = vars(parser_of(script).parse_args(command[1:] if command[0] == "faceeraser" else command[2:]))
        if command[0] == "faceeraser" and args.get("paths") and args["output"] is None and len(args["paths"]) == 2:
            args["output"] = args["paths"].pop()  # IN OUT
        if script == "benchmarks/report.py" and args["target"] is None:
            args["target"] = args["results"].pop()
        args.setdefault("output", None)
        written = {str(args[name]).rstrip("/") for name in WRITTEN if args.get(name) is not None}
        flat = [
            str(path)
            for name, value in args.items()
            if name not in WRITTEN and name not in ("script", "run")
            for path in (value if isinstance(value, list) else [value])
        ]
        named = [value for value in flat if command.count(value) or command.count(value + "/")]
        for path in (Path(value.split("=")[-1]) for value in named if re.search(r"[/.]", value) and not value[0].isdigit()):
            known = {str(place) for place in (path, *path.parents)}
            assert known & there or (ROOT / path).exists(), f"{page}: {shlex.join(command)}: nothing wrote {path}"
        there |= written


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def pages() -> list[Path]:
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
        ROOT / "android_demo" / "README.md",
        ROOT / "faceeraser" / "weights" / "MODEL_CARD.md",
    ]


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken, broken


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    names = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in names if f"({name})" not in index} == set()


@pytest.mark.parametrize("path", modules() + scripts(), ids=name_of)
def test_no_function_is_longer_than_a_page_or_takes_more_than_eight_parameters(path: Path) -> None:
    """60 lines, docstring and all."""
    functions = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef)]
    assert {node.name for node in functions if (node.end_lineno or 0) - node.lineno + 1 > 60} == set()

    def parameters(node: ast.FunctionDef) -> int:
        names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        return len(names) - (names[:1] in (["self"], ["cls"]))

    assert {node.name for node in functions if parameters(node) > 8} == set()


@pytest.mark.parametrize("path", scripts(), ids=name_of)
def test_scripts_have_one_shape(path: Path) -> None:
    """A docstring, build_parser() for the test above, and main(argv=None) that tests can call."""
    tree = tree_of(path)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert ast.get_docstring(tree), "no docstring"
    assert {"build_parser", "main"} <= set(functions), sorted(functions)
    assert [a.arg for a in functions["main"].args.args] == ["argv"] and len(functions["main"].args.defaults) == 1


# --- files -----------------------------------------------------------------------------------------------------------


def repository_files() -> list[Path]:
    """Tracked files and new ones that git does not ignore."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout, so which files belong to the repository is unknown")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_this_machine() -> None:
    """Absolute paths and registry hosts hold on one machine only (put together here, or this file would be found)."""
    homes = {"/" + "work", "/" + "root", ROOT.parent.as_posix(), Path.home().as_posix()} - {"/", "/tmp", "/home"}
    hosts = ["python" + "hosted.org", "py" + "pi.org", "npm" + "js.org", "npm" + "js.com", "deb." + "debian.org"]
    paths = "|".join(re.escape(home) for home in sorted(homes))
    forbidden = re.compile(rf"(?<![\w.~-])(?:{paths})/|{'|'.join(re.escape(host) for host in hosts)}")
    named = []
    for path in repository_files():
        content = path.read_bytes()
        if b"\0" in content[:8192]:
            continue
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            if match := forbidden.search(line):
                named.append(f"{path.relative_to(ROOT)}:{number}: {match.group()}")
    assert not named, "\n".join(named)


def test_names_say_what_is_inside() -> None:
    empty = re.compile(r"^(utils?|common|helpers?|misc|base_.*)$")
    for path in repository_files():
        if path.suffix != ".py":
            continue
        assert not empty.match(path.stem), f"{name_of(path)}: the name does not say what is inside"
        shadowed = path.stem in sys.stdlib_module_names and path.stem != "__init__"
        assert not shadowed, f"{name_of(path)} is named like a module of the standard library"


def test_photographs_of_people_stay_out() -> None:
    """Results are data; sheets and reports that show faces are not committed."""
    pictures = {".jpg", ".jpeg", ".png", ".webp", ".html"}
    assert not [path for path in repository_files() if "results" in path.parts and path.suffix.lower() in pictures]
