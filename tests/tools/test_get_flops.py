from pathlib import Path

from tools import get_flops

CONFIG = Path(__file__).resolve().parents[2] / 'mmcfg/demo/mixedae_vit-tiny-p16_crops-128.py'


def test_get_flops__report(capsys):
    assert get_flops.main([str(CONFIG), '--kept', '--cfg-options', 'model.encoder.arch=tiny']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == CONFIG.stem
    total = next(line for line in lines if 'total' in line).split()
    assert 0.9 < float(total[3]) < 1.1
    assert lines[-1].endswith('x MAE (float32, for backward)')


def test_get_flops__no_pre_training_config(capsys):
    other = CONFIG.with_name('mixedae_vit-tiny-p16_upernet_label-maps.py')
    assert get_flops.main([str(other)]) == 2
    assert 'is no pre-training config' in capsys.readouterr().err
