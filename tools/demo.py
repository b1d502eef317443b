"""The whole product, end to end and small: crops -> pre-training -> detection and segmentation -> report.

    python tools/demo.py                       embedded data, about 13 minutes on two CPU cores
    python tools/demo.py --data DIR            your own data (COCO and ADE20K names, or det/ and seg/)

`make demo` and `make demo DATA=DIR` do the same. Every stage is a command that is printed before it runs and can be
run by hand; its config stays under WORK_DIR/configs, its whole log under WORK_DIR/logs. Finished stages are skipped
on a second call unless something that they read changed. At the end: WORK_DIR/report.html, and the same figures in
WORK_DIR/metrics.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # so that a checkout works without being installed
    sys.path.insert(0, str(ROOT))

os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # as in tools/train.py: threads that wait do not spin

from tools.demo_parts.budgets import BUDGETS
from tools.demo_parts.layout import DataError, find_layout
from tools.demo_parts.stages import Journey, Stage
from tools.stage_parts.commands import StageError, clock, relative

EMBEDDED = 'embedded demo data (drawn scenes)'


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', default='', help='folder with your data; empty: the embedded data are drawn')
    parser.add_argument('--budget', default='', help=f'one of {", ".join(BUDGETS)}; empty: quick, or full with --data')
    parser.add_argument('--work-dir', default='', help='folder of all results (default: work_dirs/demo)')
    parser.add_argument('--seed', type=int, default=0, help='of pre-training, fine-tuning and the embedded data')
    parser.add_argument('--restart', action='store_true', help='do every stage anew')
    parser.add_argument('--report-only', action='store_true', help='only write the report again, from a finished run')
    args = parser.parse_args(arguments)
    args.budget = args.budget or ('full' if args.data else 'quick')
    args.work_dir = Path(args.work_dir or ROOT / 'work_dirs' / 'demo').resolve()
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        if args.report_only:
            return report_only(args.work_dir)
        if args.budget not in BUDGETS:
            raise DataError(f'there is no budget "{args.budget}": choose one of {", ".join(BUDGETS)}')
        return run(args)
    except (DataError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except StageError as error:
        print(f'\nerror: {error}', file=sys.stderr)
        for line in error.tail:
            print(f'    {line}', file=sys.stderr)
        print(f'The whole log: {error.log}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nStopped. The same command goes on with the stage that was interrupted.', file=sys.stderr)
        return 130


def run(args: argparse.Namespace) -> int:
    """Check the data, then do all stages."""
    from tools.demo_parts.checks import check_once
    from tools.demo_parts.plan import Plan

    start = time.monotonic()
    check_work_dir(args.work_dir)
    budget = BUDGETS[args.budget]
    data = Path(args.data).resolve() if args.data else args.work_dir / 'data'
    journey = Journey(args.work_dir, ROOT, total=8, restart=args.restart)
    print(f'MixedAE demo, budget "{args.budget}": about {budget.minutes:g} minutes on two idle CPU cores.', flush=True)
    if not args.data:
        journey.do(embedded_data(args, data))
    layout = find_layout(data)
    print(f'\nData: {data} ({layout.kind})', flush=True)
    print(f'      {check_once(layout, args.work_dir / "stamps" / "data.txt")}', flush=True)
    plan = Plan(
        ROOT, args.work_dir, layout, budget, args.budget, args.seed, cuda(), str(data) if args.data else EMBEDDED
    )
    stages = plan.stages()
    journey.total = len(journey.records) + len(stages)
    commands: list[str] = []
    for stage in stages:
        commands += [shlex.join(relative(command, ROOT)) for command in stage.commands]
        if stage.name == 'report':
            save_plan(plan, args, journey.records, commands)
        journey.do(stage)
    print(f'\nDone in {clock(time.monotonic() - start)}.')
    print_figures(json.loads((args.work_dir / 'metrics.json').read_text(encoding='utf-8')))
    print(f'Report:  {args.work_dir / "report.html"}\nFigures: {args.work_dir / "metrics.json"}')
    return 0


def check_work_dir(folder: Path) -> None:
    """Refuse a folder that holds other things: stages clear their own subfolders before they start."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / 'stamps').is_dir()):
        raise DataError(f'{folder} is not empty and no demo wrote it: give another --work-dir')


def embedded_data(args: argparse.Namespace, folder: Path) -> Stage:
    """The stage that draws the embedded data."""
    budget = BUDGETS[args.budget]
    train, val = budget.scenes
    place = json.dumps(relative([str(folder)], ROOT)[0])
    code = (
        'from object_aware.synthetic import write_demo_data; '
        f'write_demo_data({place}, num_train={train}, num_val={val}, size={budget.scene_size}, seed={args.seed})'
    )
    return Stage(
        name='data',
        title=f'Draw the demo data: {train + val} scenes with boxes, masks and label maps',
        commands=((sys.executable, '-c', code),),
        outputs=(folder / 'det' / 'annotations' / 'val.json', folder / 'seg' / 'classes.txt'),
        clears=(folder,),
    )


def cuda() -> bool:
    """Is there a GPU? Then pre-training runs in bfloat16."""
    import torch

    return torch.cuda.is_available()


def save_plan(plan, args: argparse.Namespace, records: dict[str, dict], commands: list[str]) -> None:
    """What the report stage needs; an unchanged file is left alone, so that an unchanged report is not drawn again."""
    text = json.dumps(
        {
            'data': str(plan.layout.root),
            'data_name': plan.data_name,
            'budget': args.budget,
            'seed': args.seed,
            'amp': plan.amp,
            'records': records,
            'commands': commands,
        },
        indent=2,
    )
    path = plan.work_dir / 'plan.json'
    if not path.is_file() or path.read_text(encoding='utf-8') != text:
        path.write_text(text, encoding='utf-8')


def report_only(work_dir: Path) -> int:
    """Draw the report of a finished run."""
    from tools.demo_parts.finish import finish
    from tools.demo_parts.plan import Plan

    file = work_dir / 'plan.json'
    if not file.is_file():
        raise DataError(f'{work_dir} holds no finished demo (no plan.json): run the demo without --report-only first')
    saved = json.loads(file.read_text(encoding='utf-8'))
    plan = Plan(
        ROOT, work_dir, find_layout(saved['data']), BUDGETS[saved['budget']], saved['budget'], saved['seed'],
        saved['amp'], saved['data_name'],
    )  # fmt: skip
    print(f'wrote {finish(plan, saved["records"], saved["commands"])}')
    return 0


def print_figures(metrics: dict) -> None:
    """The verdicts of the report, for the terminal."""
    from tools.demo_parts.verdicts import verdicts

    for _, headline, sentence in verdicts(metrics):
        print(f'  {headline}. {sentence}')


if __name__ == '__main__':
    sys.exit(main())
