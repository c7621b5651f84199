"""Build the site: lay out its sources under docs/_build/source, run Sphinx on them, check every link.

    python docs/build.py [folder for the pages; docs/_build/html when none is given]

Notebooks are taken as they stand, with their kept outputs. Nothing is executed, downloaded or written outside docs/_build and the folder given.
"""
import ast
import io
import json
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
KINDS = {'t': 'Tables', 'f': 'Figures', 's': 'Supplements', 'a': 'Stages'}
RUNS = {'demo': 'the embedded demo, a simulated registry', 'challenge2012': 'PhysioNet Challenge 2012, open real data',
        'challenge2012-seeds': 'the same, three seeds side by side', 'challenge2012-frontier': 'the same, along training and privacy budgets',
        'challenge2012-epsilon8': 'the same, trained privately (epsilon 8)'}


def cells(notebook:Path)->list[str]:
    "The Markdown cells of a notebook."
    return [''.join(c['source']) for c in json.loads(notebook.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown']


def title_and_promise(notebook:Path)->tuple[str, str]:
    "First heading and block quote."
    first = cells(notebook)[0]
    heading, quote = re.search(r'^# (.+)', first, re.M), re.search(r'^> (.+)', first, re.M)
    return heading[1] if heading else notebook.stem, quote[1] if quote else ''


def natural(name:str)->tuple:
    "f2 before f10."
    return name[0], int(re.search(r'\d+', name)[0]), name


# Items of the paper


def results(name:str, run:str)->list[str]:
    "Pictures and tables of one item in one run's folder, as Markdown."
    folder, out = ROOT/'figures'/run, []
    own = lambda suffix: sorted(p for p in folder.glob(f'{name}*.{suffix}') if p.stem == name or p.stem.startswith(f'{name}_'))
    for p in own('png'): out.append(f'```{{image}} ../figures/{run}/{p.name}\n:alt: {title_and_promise(ROOT/"nbs"/"paper"/f"{name}.ipynb")[0]}, {run}\n```')
    for p in own('md'): out.append(f'::::{{container}} wide\n{p.read_text(encoding="utf-8").strip()}\n::::')
    return [f'## {RUNS.get(run, run)[0].upper()}{RUNS.get(run, run)[1:]}', *out] if out else []


def item_page(notebook:Path)->str:
    "One item: what it claims, its results in every committed run, the notebook that made it."
    name, (title, promise) = notebook.stem, title_and_promise(notebook)
    runs = [d.name for d in sorted((ROOT/'figures').iterdir()) if d.is_dir()]
    runs.sort(key=lambda r: [*RUNS, r].index(r))
    made = [line for r in runs for line in results(name, r)]
    parts = [f'# {title}', f'> {promise}', f'Made by the notebook [{name}](../nbs/paper/{name}.ipynb); again with `make paper ITEMS={name}`.', *made]
    if not made: parts.append('This item is made by every run; no committed run has its files.')
    return '\n\n'.join(parts) + '\n'


def paper_index(notebooks:list[Path])->str:
    "The list of all items, with small pictures."
    out = ['# The paper', 'Every table and figure comes from one notebook and is made again by `make paper ITEMS=name`. Shown are the committed results.']
    for kind,caption in KINDS.items():
        own = [p for p in notebooks if p.stem[0] == kind]
        if not own: continue
        out.append(f'## {caption}')
        if kind == 'a':
            out.append('The stages that the items read from. A run keeps them, executed, in its folder.')
            out.append('```{toctree}\n:maxdepth: 1\n\n' + '\n'.join(f'nbs/paper/{p.stem}' for p in own) + '\n```')
            continue
        small = {p: next((f'figures/{q.parent.name}/{q.name}' for r in RUNS for q in sorted((ROOT/'figures'/r).glob(f'{p.stem}*.png'))), '') for p in own}
        drawn = any(small.values())
        rows = ['| item | what it shows |' + ' |'*drawn, '|---|---|' + '---|'*drawn]
        for p in own:
            title, promise = (x.replace('|', r'\|') for x in title_and_promise(p))
            rows.append(f'| [{title}](paper/{p.stem}.md) | {promise} |' + (f' {f"![{title}]({small[p]})" if small[p] else ""} |' if drawn else ''))
        out += [':::{container} thumbs\n' + '\n'.join(rows) + '\n:::', '```{toctree}\n:hidden:\n\n' + '\n'.join(f'paper/{p.stem}' for p in own) + '\n```']
    out.append('```{toctree}\n:hidden:\n\n' + '\n'.join(f'Notebook {p.stem} <nbs/paper/{p.stem}>' for p in notebooks if p.stem[0] != 'a') + '\n```')
    return '\n\n'.join(out) + '\n'


def findings(text:str)->str:
    "PAPER.md as a page of the site: links to files of an item go to its page."
    text = re.sub(r'(?<!!)(\[[^\]]*\])\(figures/[\w-]+/(\w+)\.\w+\)', r'\1(paper/\2.md)', text)
    return re.sub(r'\[[^\]]*\]\(figures/[\w-]+\)', '[Tables and figures](paper.md)', text)


# The API: names, signatures and the comments beside the parameters, read from the exported modules


def comments(source:str)->dict[int, str]:
    "Comment of each line."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip('# ').strip() for t in tokens if t.type == tokenize.COMMENT}


def clean(text:str)->str:
    "A text of the code in Markdown: stars, dollars and brackets stand for themselves."
    return re.sub(r'([*_$<>\[\]|])', r'\\\1', ' '.join(text.split()))


def parameters(f:ast.FunctionDef, said:dict[int, str])->list[str]:
    "Field lists of a function: the comment on a parameter's line belongs to the last one of the line."
    args = [a for a in (*f.args.posonlyargs, *f.args.args, f.args.vararg, *f.args.kwonlyargs, f.args.kwarg) if a]
    last, head = {a.lineno: a.arg for a in args}, f.body[0].lineno
    one_line = f.lineno == head - 1
    out = [] if one_line else [f':param {last[i]}: {clean(said[i])}' for i in sorted(last) if i in said and i != f.lineno]
    close = f.returns.end_lineno if f.returns else head - 1
    if close in said and (one_line or close not in last): out.append(f':returns: {clean(said[close])}')
    return out


def signature(f:ast.FunctionDef)->str:
    "As Sphinx reads it."
    return f"({ast.unparse(f.args)})" + (f' -> {ast.unparse(f.returns)}' if f.returns else '')


def function_entry(f:ast.FunctionDef, said:dict[int, str], kind:str='function')->str:
    "A directive for a function or a method."
    doc = clean(ast.get_docstring(f) or '')
    own = {ast.unparse(d) for d in f.decorator_list}
    if kind == 'method' and 'staticmethod' not in own: f.args.args = f.args.args[1:] # self, cls
    if 'property' in own or 'cached_property' in ' '.join(own): kind, head = 'property', f.name
    else: head = f.name + signature(f)
    kind = {'classmethod': 'classmethod', 'staticmethod': 'staticmethod'}.get(next((d for d in own if d in ('classmethod', 'staticmethod')), ''), kind)
    body = '\n'.join([doc, '', *parameters(f, said)]).strip()
    return f'````{{py:{kind}}} {head}\n{body}\n````'


def class_entry(c:ast.ClassDef, said:dict[int, str])->str:
    "A directive for a class: fields with their comments, then public methods that say what they do."
    inside = [clean(ast.get_docstring(c) or '')]
    for n in c.body:
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and not n.target.id.startswith('_'):
            value = f'\n:value: {" ".join(ast.unparse(n.value).split())}' if n.value is not None and len(ast.unparse(n.value)) < 60 else ''
            inside.append(f'````{{py:attribute}} {n.target.id}\n:type: {ast.unparse(n.annotation)}{value}\n\n{clean(said.get(n.end_lineno, said.get(n.lineno, "")))}\n````')
        if isinstance(n, ast.FunctionDef) and not n.name.startswith('_') and ast.get_docstring(n): inside.append(function_entry(n, said, 'method'))
    start = next((n for n in c.body if isinstance(n, ast.FunctionDef) and n.name == '__init__'), None)
    head = c.name
    if start:
        args = ast.parse(ast.unparse(start)).body[0]
        args.args.args, args.returns = args.args.args[1:], None
        head += signature(args)
        inside.insert(1, '\n'.join(parameters(start, said)))
    return f'`````{{py:class}} {head}\n' + '\n\n'.join(x for x in inside if x) + '\n`````'


def data_entry(name:str, value:ast.expr, said:str)->str:
    "A directive for a constant."
    shown = ' '.join(ast.unparse(value).split())
    return f'````{{py:data}} {name}\n' + (f':value: {shown}\n' if len(shown) < 100 and '#' not in shown else '') + f'\n{clean(said)}\n````'


def module_page(file:Path, notebook:Path)->tuple[str, str]: # dotted name, page
    "Everything public in one module."
    source, name = file.read_text(encoding='utf-8'), '.'.join(('synkmimic', *file.relative_to(ROOT/'synkmimic').with_suffix('').parts))
    tree, said = ast.parse(source), comments(source)
    public = next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == '__all__')
    out = [f'# {name.removeprefix("synkmimic.")}', f'```{{py:module}} {name}\n```', clean(ast.get_docstring(tree) or ''),
           f'Explained and shown to work in [{notebook.stem}](../nbs/{notebook.name}).']
    for n in tree.body:
        if isinstance(n, ast.FunctionDef) and n.name in public: out.append(function_entry(n, said))
        if isinstance(n, ast.ClassDef) and n.name in public: out.append(class_entry(n, said))
        if isinstance(n, ast.Assign):
            pairs = zip(n.targets[0].elts, n.value.elts) if isinstance(n.targets[0], ast.Tuple) else [(n.targets[0], n.value)]
            out += [data_entry(t.id, v, said.get(n.end_lineno, '')) for t,v in pairs if isinstance(t, ast.Name) and t.id in public]
    return name, '\n\n'.join(x for x in out if x) + '\n'


def modules()->list[tuple[Path, Path]]: # module, notebook
    "The exported modules in the order of their notebooks."
    out = []
    for p in sorted((ROOT/'nbs').glob('[0-9]*.ipynb')):
        made = re.search(r'#\|\s*default_exp:?\s+([\w.]+)', p.read_text(encoding='utf-8'))[1]
        out.append((ROOT.joinpath('synkmimic', *made.split('.')).with_suffix('.py'), p))
    return out


# Lay out, build, check


def lay_out(source:Path)->None:
    "All sources of the site in one folder."
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(HERE, source, ignore=shutil.ignore_patterns('_build', '__pycache__', 'build.py', 'check_links.py'))
    shutil.copytree(ROOT/'nbs', source/'nbs', ignore=shutil.ignore_patterns('.*', '_*', '*.failed.ipynb', '*.toml', '*.yaml', 'PAPER.md'))
    for p in (source/'nbs').glob('*.ipynb'): # the cell that names the module says nothing to a reader
        book = json.loads(p.read_text(encoding='utf-8'))
        book['cells'] = [c for c in book['cells'] if not ''.join(c['source']).startswith('#| default_exp')]
        p.write_text(json.dumps(book, ensure_ascii=False), encoding='utf-8')
    for p in (ROOT/'figures').glob('*/*.png'):
        (source/'figures'/p.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy2(p, source/'figures'/p.parent.name)
    notebooks = sorted((ROOT/'nbs'/'paper').glob('*.ipynb'), key=lambda p: natural(p.stem))
    (source/'paper').mkdir()
    for p in notebooks:
        if p.stem[0] in 'tfs': (source/'paper'/f'{p.stem}.md').write_text(item_page(p), encoding='utf-8')
    (source/'findings.md').write_text(findings((ROOT/'PAPER.md').read_text(encoding='utf-8')), encoding='utf-8')
    (source/'paper.md').write_text(paper_index(notebooks), encoding='utf-8')
    (source/'api').mkdir()
    pages = [module_page(*m) for m in modules()]
    for name,page in pages: (source/'api'/f'{name}.md').write_text(page, encoding='utf-8')
    listed = '\n'.join(f'{n.removeprefix("synkmimic.")} <api/{n}>' for n,_ in pages)
    (source/'api.md').write_text('# API\n\nPublic names of every module, with what the comments beside their parameters say. `from synkmimic import Cohort, Synthesizer, evaluate, '
                                 f'load_cohort, simulate_registry, toy_cohort` are the names most people need.\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n', encoding='utf-8')


def main(argv=None)->int:
    "Build; 1 for a warning of Sphinx or a broken link."
    argv = sys.argv[1:] if argv is None else argv
    out, source = Path(argv[0]) if argv else HERE/'_build'/'html', HERE/'_build'/'source'
    lay_out(source)
    shutil.rmtree(out, ignore_errors=True)
    status = subprocess.run([sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-b', 'html', '-d', HERE/'_build'/'doctrees', source, out]).returncode
    if status == 0: status = subprocess.run([sys.executable, HERE/'check_links.py', out]).returncode
    if status == 0: print(out/'index.html')
    return status


if __name__ == '__main__': sys.exit(main())
