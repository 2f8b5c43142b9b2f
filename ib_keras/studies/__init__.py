"""Studies: many models by many protocols, in parts, on many processes.

* `plan`: the jobs of a study, from its config; without TensorFlow.
* `folder`: what its folder holds, whose it is and what has failed.
* `study`: runs it, or the rest of it, by `ib_keras.cluster`.
* `calls`: what workers do.
* `costs`: what it can take at most, by measured gradients.
* `table`: all audits as Parquet.
"""
