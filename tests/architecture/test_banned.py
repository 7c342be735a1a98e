"""What no file of the package does, found in the syntax tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

import pytest

from tests.architecture.source import Module, modules

WRITERS = re.compile(r"interp\.core\.(store|disk\..*)")
WRITING_CALLS = {
    "torch.save",
    "save_file",
    "safetensors.torch.save_file",
    "json.dump",
    "yaml.dump",
    "np.save",
    "np.savez",
    "numpy.save",
    "shutil.copy",
    "shutil.move",
    "shutil.rmtree",
    "os.rename",
    "os.replace",
    "os.remove",
    "os.unlink",
    "os.mkdir",
    "os.makedirs",
    "os.open",
}
WRITING_METHODS = {
    "write_text",
    "write_bytes",
    "mkdir",
    "touch",
    "unlink",
    "rename",
    "rmdir",
    "to_csv",
    "to_parquet",
    "to_pickle",
    "write_html",
    "write_image",
    "save_pretrained",
}
# Markup is made where it is escaped: the escape itself, result tables, pictures' hovers, pages.
MARKUP_PLACES = re.compile(r"interp\.(core\.(escape|result|_?tables?)|plotting|reports)(\..*)?$")
TAG = re.compile(
    r"</?(a|b|body|br|code|div|em|h[1-6]|head|html|i|img|li|ol|p|pre|script|span|style|sub|sup"
    r"|svg|table|tbody|td|th|thead|tr|ul|extra)\b",
    re.I,
)
Finder = Callable[[Module], Iterator[ast.AST]]


def calls(module: Module) -> Iterator[tuple[ast.Call, str]]:
    for node in module.nodes(ast.Call):
        assert isinstance(node, ast.Call)
        yield node, ast.unparse(node.func)


def keyword(call: ast.Call, name: str) -> object:
    for item in call.keywords:
        if item.arg == name and isinstance(item.value, ast.Constant):
            return item.value.value
    return None


def opens_for_writing(call: ast.Call, position: int) -> bool:
    """`open(path, mode)` or `path.open(mode)` whose mode writes, or cannot be read here."""
    mode = call.args[position] if len(call.args) > position else None
    mode = next((item.value for item in call.keywords if item.arg == "mode"), mode)
    if mode is None:
        return False
    return not isinstance(mode, ast.Constant) or bool(set(str(mode.value)) & set("wax+"))


def writes_files(module: Module) -> Iterator[ast.AST]:
    if WRITERS.fullmatch(module.name):
        return
    for call, name in calls(module):
        method = name.rpartition(".")[2]
        is_method = isinstance(call.func, ast.Attribute)
        by_method = is_method and method in WRITING_METHODS and "store" not in name
        by_mode = method == "open" and opens_for_writing(call, 0 if is_method else 1)
        if name in WRITING_CALLS or by_method or by_mode:
            yield call


def prints(module: Module) -> Iterator[ast.AST]:
    if module.room != "cli":
        yield from (call for call, name in calls(module) if name in ("print", "pprint"))


def asserts(module: Module) -> Iterator[ast.AST]:
    yield from module.nodes(ast.Assert)


def runs_foreign_code(module: Module) -> Iterator[ast.AST]:
    for call, name in calls(module):
        unsafe_load = name == "torch.load" and keyword(call, "weights_only") is not True
        remote = keyword(call, "trust_remote_code") is True
        full_yaml = name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load")
        evaluates = name in ("eval", "exec", "builtins.eval", "builtins.exec", "os.system")
        if unsafe_load or remote or full_yaml or evaluates or keyword(call, "shell") is True:
            yield call
    for node in module.nodes(ast.Import, ast.ImportFrom):
        assert isinstance(node, ast.Import | ast.ImportFrom)
        named = [alias.name for alias in node.names]
        source = [node.module or ""] if isinstance(node, ast.ImportFrom) else named
        if {item.partition(".")[0] for item in source} & {"pickle", "joblib", "dill", "marshal"}:
            yield node


def swallows_errors(module: Module) -> Iterator[ast.AST]:
    broad = {"Exception", "BaseException", None}
    for node in module.nodes(ast.ExceptHandler):
        assert isinstance(node, ast.ExceptHandler)
        kind = ast.unparse(node.type) if node.type else None
        empty = all(isinstance(line, ast.Pass | ast.Continue) for line in node.body)
        if kind is None or (kind in broad and empty):
            yield node


def builds_markup(module: Module) -> Iterator[ast.AST]:
    if MARKUP_PLACES.match(module.name):
        return
    for node in module.nodes(ast.JoinedStr):
        assert isinstance(node, ast.JoinedStr)
        fixed = "".join(str(v.value) for v in node.values if isinstance(v, ast.Constant))
        if TAG.search(fixed):
            yield node


def speaks_to_the_hub(module: Module) -> Iterator[ast.AST]:
    for node in module.nodes(ast.Import, ast.ImportFrom):
        assert isinstance(node, ast.Import | ast.ImportFrom)
        named = [alias.name for alias in node.names]
        source = [node.module or ""] if isinstance(node, ast.ImportFrom) else named
        if {item.partition(".")[0] for item in source} & {"requests", "httpx", "aiohttp"}:
            yield node


RULES: dict[str, Finder] = {
    "only core/store writes files": writes_files,
    "only the command line prints": prints,
    "asserts vanish under -O": asserts,
    "no foreign code is run": runs_foreign_code,
    "no error is swallowed": swallows_errors,
    "markup is built where it is escaped": builds_markup,
    "nobody speaks HTTP by hand": speaks_to_the_hub,
}


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    found = [
        f"{module.place}:{getattr(node, 'lineno', '?')}: {ast.unparse(node)[:90]}"
        for module in modules().values()
        for node in RULES[rule](module)
    ]
    assert found == [], rule


BROKEN = {
    "only core/store writes files": [
        "open(p, 'w')",
        "open(p, mode='ab')",
        "p.open('r+b')",
        "p.write_text(s)",
        "torch.save(x, p)",
        "json.dump(x, f)",
        "save_file(t, p)",
        "np.save(p, x)",
        "open(p, mode)",
        "os.replace(a, b)",
    ],
    "only the command line prints": ["print(1)"],
    "asserts vanish under -O": ["assert x"],
    "no foreign code is run": [
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "eval(s)",
        "import pickle",
        "from joblib import load",
        "yaml.load(s)",
        "f(trust_remote_code=True)",
        "subprocess.run(c, shell=True)",
    ],
    "no error is swallowed": ["try:\n f()\nexcept:\n g()", "try:\n f()\nexcept Exception:\n pass"],
    "markup is built where it is escaped": ["f'<b>{x}</b>'", "f'</div>{x}'"],
    "nobody speaks HTTP by hand": ["import requests"],
}
FINE = [
    "open(p)",
    "open(p, 'rb')",
    "p.open('rb')",
    "p.read_text()",
    "store.write_text(p, s)",
    "torch.load(p, weights_only=True)",
    "yaml.safe_load(s)",
    "f'{a} < {b}'",
    "f'<site {x}>'",
    "try:\n f()\nexcept KeyError:\n pass",
]


@pytest.mark.parametrize("rule, line", [(r, line) for r, lines in BROKEN.items() for line in lines])
def test_rule_sees_what_it_forbids(rule: str, line: str) -> None:
    assert list(RULES[rule](_module(line)))


@pytest.mark.parametrize("line", FINE)
def test_rules_leave_honest_code_alone(line: str) -> None:
    assert [rule for rule, find in RULES.items() if list(find(_module(line)))] == []


def _module(text: str) -> Module:
    class Line(Module):
        text = ""
        tree = ast.parse("")

    line = Line(next(iter(modules().values())).path, "interp.lenses.example")
    Line.text, Line.tree = text, ast.parse(text)
    return line
