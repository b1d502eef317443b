"""What every pre-training run shares: loop, hooks, logging, seeds."""

default_scope = 'mixedae'
custom_imports = dict(imports=['mixedae'], allow_failed_imports=False)
runner_type = 'mixedae.SafeRunner'  # whole checkpoints, exact resume, guards: docs/reliability.md

default_hooks = dict(
    runtime_info=dict(type='mmengine.RuntimeInfoHook'),
    timer=dict(type='mmengine.IterTimerHook'),
    sampler_seed=dict(type='mmengine.DistSamplerSeedHook'),
    throughput=dict(type='mixedae.ThroughputHook'),  # images/s, and whether data or model bounds the run
    logger=dict(type='mmengine.LoggerHook', interval=50),
    param_scheduler=dict(type='mmengine.ParamSchedulerHook'),
    checkpoint=dict(type='mmengine.CheckpointHook', interval=20, max_keep_ckpts=3, save_last=True),
    # Off, since they cost time of the first process; docs/watching.md has both by command line:
    # pictures=dict(type='mixedae.PictureHook', interval=20),
    # probe=dict(type='mixedae.ProbeHook', train='data/probe/train', val='data/probe/val', interval=10),
)
custom_hooks = [dict(type='mixedae.PretrainMeterHook', interval=50)]

env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
# Several processes: the same parameters take part in every step, and gradients lie where they are summed.
model_wrapper_cfg = dict(
    type='mmengine.MMDistributedDataParallel', broadcast_buffers=False, static_graph=True, gradient_as_bucket_view=True
)
# Each rank draws its own masks and crops; the same seed gives the same run.
randomness = dict(seed=0, diff_rank_seed=False)
log_processor = dict(window_size=10, by_epoch=True)
visualizer = dict(type='mmengine.Visualizer', vis_backends=[dict(type='mmengine.LocalVisBackend')])
load_from = None
resume = False
