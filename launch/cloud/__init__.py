"""Cloud TPU VMs: what `launch.tpu_vm` and `launch.doctor --vm` are made of."""
