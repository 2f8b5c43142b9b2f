"""Cloud TPU VMs: what `launch.tpu_vm` and `launch.doctor` are made of."""
