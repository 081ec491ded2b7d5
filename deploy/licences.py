"""Writes to standard output under which licences what is linked into the program is, with their texts as they stand in its sources. Fails if there is one of
which nothing can be said."""

import json
import pathlib
import re
import subprocess

OWN = {"MIT", "Apache-2.0"}
NAME = re.compile(r"(licen[cs]e|unlicense|copying|copyright|notice)([-._].*)?", re.IGNORECASE)

HEADING = """\
WhatsNext itself is under the MIT licence or Apache-2.0, as you like: see LICENSE-MIT and LICENSE-APACHE. Linked into the program are the packages below, and
the standard library of Rust (MIT OR Apache-2.0, The Rust Project Developers). With poem-openapi come the pages of the API's documentation: Swagger UI
(Apache-2.0, SmartBear Software, https://github.com/swagger-api/swagger-ui) and Redoc (MIT, Rebilly, Inc., https://github.com/Redocly/redoc), which have other
packages in them, named there.
"""


def asked(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=pathlib.Path(__file__).parent.parent).stdout


host = re.search(r"^host: (.*)$", asked("rustc", "-vV"), re.MULTILINE)[1]
metadata = json.loads(asked("cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={host}"))
packages = {(package["name"], package["version"]): package for package in metadata["packages"] if package["source"]}
# Macros, and what only builds, is not in the program.
tree = asked("cargo", "tree", "--locked", "--edges=normal,no-proc-macro", "--prefix=none", "--no-dedupe", "--format={p}")
names = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
linked = [packages[name, version[1:]] for name, version in sorted(names) if (name, version[1:]) in packages]
assert len(linked) == len(names) - 1, "all but the program itself are packages"

print(HEADING)
texts = {}
for package in linked:
    called = f"{package['name']} {package['version']}"
    print(f"{called}: {package['license']}" + (f", {package['repository']}" if package["repository"] else ""))
    folder = pathlib.Path(package["manifest_path"]).parent
    files = sorted(file for file in folder.rglob("*") if file.is_file() and NAME.fullmatch(file.name) and file.suffix not in {".rs", ".c", ".h"})
    for file in files:
        text = file.read_text(errors="replace").strip()
        # However its lines are broken.
        texts.setdefault(" ".join(text.split()), (text, []))[1].append(called)
    if not files:
        assert OWN & set(re.split(" OR |/", package["license"] or "")), f"{called} has no licence in its sources, and it is another than our own"
        print(f"  It brings no text: that of LICENSE-MIT or LICENSE-APACHE holds, with its authors, {', '.join(package['authors']) or 'who are not named'}.")

for text, whose in texts.values():
    print(f"\n{'-' * 80}\n{', '.join(whose)}:\n\n{text}")
