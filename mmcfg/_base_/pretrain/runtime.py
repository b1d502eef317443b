"""What every pre-training run shares: loop, hooks, logging, seeds."""

default_scope = 'mixedae'
custom_imports = dict(imports=['mixedae'], allow_failed_imports=False)
runner_type = 'mixedae.SafeRunner'  # whole checkpoints, exact resume, guards: docs/reliability.md

default_hooks = dict(
    runtime_info=dict(type='mmengine.RuntimeInfoHook'),
    timer=dict(type='mmengine.IterTimerHook'),
    sampler_seed=dict(type='mmengine.DistSamplerSeedHook'),
    logger=dict(type='mmengine.LoggerHook', interval=50),
    param_scheduler=dict(type='mmengine.ParamSchedulerHook'),
    checkpoint=dict(type='mmengine.CheckpointHook', interval=20, max_keep_ckpts=3, save_last=True),
)
custom_hooks = [dict(type='mixedae.PretrainMeterHook', interval=50)]

env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
# Each rank draws its own masks and crops; the same seed gives the same run.
randomness = dict(seed=0, diff_rank_seed=False)
log_processor = dict(window_size=10, by_epoch=True)
visualizer = dict(type='mmengine.Visualizer', vis_backends=[dict(type='mmengine.LocalVisBackend')])
load_from = None
resume = False
