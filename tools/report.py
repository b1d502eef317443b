"""One self-contained HTML page of a run: health, curves, pictures, settings, environment, checkpoints, incidents.

    python tools/report.py RUN_DIR [--out report.html]

RUN_DIR is the work directory of a pre-training or fine-tuning run, finished or not; of a resumed run all starts are
read, of an earlier run in that folder none. The verdicts name their ranges and where these come from. Exit code 2: the
folder holds no run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
if str(REPO) not in sys.path:  # so that a checkout works without being installed
    sys.path.insert(0, str(REPO))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('run_dir', metavar='RUN_DIR', type=Path, help='work directory of a run')
    parser.add_argument('--out', type=Path, help='the page (default: RUN_DIR/report.html)')
    args = parser.parse_args(arguments)
    try:
        from mixedae.visualization.html import HEAD
        from object_aware.outputs import begins_with, check_out
        from tools.report_parts.health import summary, verdicts
        from tools.report_parts.page import build_page, subtitle
        from tools.report_parts.run import read_run

        out = args.out or args.run_dir / 'report.html'
        check_out(out, (), 'a page that this tool wrote', begins_with(HEAD.encode()))
        run = read_run(args.run_dir)
        path = build_page(run, out)
    except (ValueError, OSError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    found = verdicts(run)
    print(f'{subtitle(run)}\n{summary(found)}')
    for kind, headline, _ in found:
        print(f'  {kind:5} {headline}')
    print(path)
    return 0


if __name__ == '__main__':
    sys.exit(main())
