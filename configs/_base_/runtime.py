# Shared by every run: hooks, logs, processes.
custom_imports = dict(imports=["hardnet_suite.openmm"], allow_failed_imports=False)
randomness = dict(seed=0)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        type="ResumableCheckpointHook",
        interval=1,
        every_minutes=10,
        max_keep_ckpts=3,
        save_best="auto",
        rule="greater",
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
custom_hooks = [
    dict(type="ProgressLineHook"),
    dict(type="DrawPredictionsHook", images=4),  # at every validation, for TensorBoard and other trackers
    dict(type="AverageBuffersHook"),  # running statistics, over the ranks, before validation and saving
]
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
log_level = "INFO"
load_from = None
resume = False
