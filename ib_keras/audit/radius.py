"""One radius of an audit, in one folder, with saving and resuming.

Progress is saved after batches, resumed from and shown; at the
end the summary and what broke each example are written.
"""

import dataclasses
import json
import time
from typing import Any

import numpy as np

from ib_keras import export
from ib_keras import files
from ib_keras.attacks import ledger as ledgers
from ib_keras.attacks.base import num_targets
from ib_keras.audit import folder as folders
from ib_keras.audit.statistics import wilson_interval
from ib_keras.errors import Interrupted
from ib_keras.errors import UserError
from ib_keras.progress import Progress

PARTIAL_FILE = "partial.npz"
_STATE = "state.json"
# Prefix of the arrays of certificates.
_CERTIFICATES = "certificates."


class Audit:
    """One radius of one audit, in one folder.

    Args:
        config: An audit config.
        subject: What is audited.
        stages: What is run, in order.
        attack_runner: Runs them at this radius.
        folder: Where the files go.
        quiet: Prints nothing.
        share: (first, last) of the examples among those of the audit, where
            this is one process' part of it.
        prover: `certificates.Prover` of the audit; None proves nothing.
    """

    def __init__(
        self,
        config,
        subject,
        stages,
        attack_runner,
        folder,
        quiet=False,
        share=None,
        prover=None,
    ):
        self.share = share
        self.prover = prover
        self.certificates = None
        self.config = config
        self.subject = subject
        self.folder = folder
        self.quiet = quiet
        self.curve = []
        self.command = ""
        self.git_commit = None
        self.stages = stages
        self.runner = attack_runner
        self.threat_model = attack_runner.threat_model

    def run(self, should_stop=lambda: False) -> dict[str, Any]:
        """Runs or resumes the audit and writes its files.

        Args:
            should_stop: Called after every batch; true saves and stops.

        Returns:
            The summary.

        Raises:
            UserError: If the folder holds another audit or cannot be written.
            Interrupted: If it was stopped; its progress is saved.
        """
        if self.is_done:
            return self.read()
        return self.finish(self.attack(should_stop))

    @property
    def is_done(self) -> bool:
        """Whether there is a summary."""
        return files.exists(files.join(self.folder, folders.SUMMARY))

    def read(self) -> dict[str, Any]:
        """The summary of an audit that is done."""
        # A kill right after the summary leaves the progress behind.
        self._remove_partial()
        return folders.summary(self.folder)

    def _remove_partial(self):
        files.remove(files.join(self.folder, PARTIAL_FILE))
        folders.remove_parts(self.folder)

    def of_share(self, first: int, last: int, folder: str) -> "Audit":
        """The share of the audit of one of several processes.

        Args:
            first: Position of its first example; its runner needs it too.
            last: Position after its last example.
            folder: Of its progress.
        """
        some = dataclasses.replace(
            self.subject,
            images=self.subject.images[first:last],
            labels=self.subject.labels[first:last],
        )
        return Audit(
            self.config,
            some,
            self.stages,
            self.runner,
            folder,
            self.quiet,
            (first, last),
            self.prover,
        )

    def attack_and_save(self, should_stop=lambda: False) -> None:
        """Attacks to the end and saves the progress, for another process."""
        self._save(self.attack(should_stop))

    def attack(self, should_stop=lambda: False) -> ledgers.Progress:
        """Runs or resumes the attacks; the arguments and errors of `run`.

        Returns:
            The progress.
        """
        files.make_folder(self.folder)
        progress = self.restore()
        if self.prover is not None:
            self._prove(progress, should_stop)
        num_classes = self.subject.model.num_classes
        spent, left = self.runner.work(progress, num_classes)
        with Progress(
            spent + left,
            "call",
            f"audit, epsilon {self.threat_model.epsilon:g}",
            spent,
            self.quiet,
        ) as bar:
            saved = time.monotonic()

            def on_batch(state):
                nonlocal saved
                position = state.position
                spent, left = self.runner.work(state, num_classes)
                bar.set_total(spent + left)
                bar.update(
                    spent,
                    stage=position.stage,
                    restart=position.restart,
                    robust=f"{state.ledger.robust_accuracy:.3f}",
                )
                stop = should_stop()
                # Saving costs about as much as the images' size in writes;
                # no more than a few per cent of the time goes into it.
                if stop or time.monotonic() - saved > self._save_every():
                    self._save(state)
                    saved = time.monotonic()
                if stop:
                    raise Interrupted(
                        f"Stopped in stage {position.stage}, restart "
                        f"{position.restart}; the same command resumes there."
                    )

            self.runner.run(self.subject.images, progress, on_batch)
        return progress

    def _prove(self, progress, should_stop):
        """Certifies what is classified correctly, and spares what is proved.

        Certificates that were saved are not asked for again.
        """
        ledger, found = progress.ledger, self.certificates
        if not progress.position.clean_done:
            self.runner.predict_clean(self.subject.images, progress)
        rows = np.flatnonzero(ledger.clean_prediction == ledger.label)
        done = int(found.is_asked[rows].sum())
        with Progress(
            len(rows),
            "example",
            f"certificates, epsilon {self.threat_model.epsilon:g}",
            done,
            self.quiet,
        ) as bar:
            saved = time.monotonic()

            def on_batch(found):
                nonlocal saved
                done = int(found.is_asked[rows].sum())
                bar.update(done, certified=int(found.is_certified.sum()))
                stop = should_stop()
                if stop or time.monotonic() - saved > self._save_every():
                    self._save(progress)
                    saved = time.monotonic()
                if stop:
                    raise Interrupted(
                        f"Stopped after {done} of {len(rows)} certificates; "
                        "the same command resumes there."
                    )

            self.prover.prove(
                self.subject, rows, self.threat_model.epsilon, found, on_batch
            )
        if found.reason:
            self._say(f"Not certified: {found.reason}")
        if not self.prover.asked.attack_certified:
            progress.spared = found.is_certified.copy()

    def take_certificates(self, parts) -> None:
        """Takes those of several processes as its own, in their order."""
        if self.prover is not None:
            self.certificates = parts[0].merge(parts)

    def _save_every(self) -> float:
        return 2.0 + self.subject.images.nbytes / 1e7

    def _save(self, progress):
        state = {
            "position": dataclasses.asdict(progress.position),
            "stages": [dataclasses.asdict(s) for s in progress.stages],
            "identity": self._identity(),
        }
        arrays = progress.ledger.arrays()
        if self.certificates is not None:
            state["certificates"] = self.certificates.facts()
            arrays |= self.certificates.arrays(_CERTIFICATES)
        text = json.dumps(state).encode()
        files.write_npz(
            files.join(self.folder, PARTIAL_FILE),
            {**arrays, _STATE: np.frombuffer(text, np.uint8)},
        )

    def _identity(self):
        """The values that must agree for an audit to be resumed."""
        return {
            "model": self.subject.model.sha256,
            "mode": self.subject.mode,
            "epsilon": float(self.threat_model.epsilon),
            "dataset": self.subject.dataset,
            "num_examples": len(self.subject.labels),
            **({"share": list(self.share)} if self.share else {}),
        }

    def restore(self) -> ledgers.Progress:
        """The progress as it was saved; at the start where there is none.

        Raises:
            UserError: If it is of another audit.
        """
        fresh = self.runner.start(self.subject.images, self.subject.labels)
        self.certificates = self._restore_certificates({}, {})
        path = files.join(self.folder, PARTIAL_FILE)
        if not files.exists(path):
            return fresh
        try:
            arrays = files.read_npz(path)
            state = json.loads(arrays.pop(_STATE).tobytes())
            identity = state["identity"]
            certificates = self._restore_certificates(
                arrays, state.get("certificates", {})
            )
            progress = ledgers.Progress(
                ledgers.Ledger(**arrays),
                ledgers.Position(**state["position"]),
                [
                    ledgers.StageStatistics(**statistics)
                    for statistics in state["stages"]
                ],
            )
            self.certificates = certificates
        except (KeyError, TypeError, ValueError) as error:
            self._say(
                f"Starting again, for the saved progress is damaged: {error}"
            )
            return fresh
        if identity != self._identity():
            raise UserError(
                "The workdir holds the progress of another audit",
                received=f"{path} of {identity}",
                expected=f"{self._identity()}",
                fix="Choose another --workdir.",
            )
        position = progress.position
        self._say(
            f"Resuming at stage {position.stage}, restart {position.restart}, "
            f"batch {position.batch}, from {self.folder}"
        )
        return progress

    def _restore_certificates(self, arrays, facts):
        """Takes what is of certificates out of saved arrays."""
        if self.prover is None:
            return None
        from ib_keras.audit.certificates import Certificates

        blank = Certificates.blank(len(self.subject.labels))
        names = [n for n in arrays if n.startswith(_CERTIFICATES)]
        kept = {n.removeprefix(_CERTIFICATES): arrays.pop(n) for n in names}
        return dataclasses.replace(blank, **kept, **facts)

    def _say(self, line):
        if not self.quiet:
            print(line, flush=True)

    def finish(self, progress: ledgers.Progress) -> dict[str, Any]:
        """Writes what attacks have found; returns the summary.

        Raises:
            ContradictionError: If they broke what is proved robust.
        """
        ledger = progress.ledger
        arrays = {"index": np.arange(len(ledger.label), dtype=np.int64)}
        proved = {}
        if self.certificates is not None:
            from ib_keras.audit import certificates

            certificates.settle(
                self.certificates,
                ledger,
                self.subject.images,
                self.folder,
                self.threat_model.epsilon,
            )
            asked = self.prover.asked
            arrays |= certificates.of_examples(asked, self.certificates)
            proved = certificates.of_summary(asked, self.certificates)
        files.write_npz(
            files.join(self.folder, folders.EXAMPLES),
            {**arrays, **ledger.arrays()},
        )
        summary = self._summary(progress, proved)
        path = files.join(self.folder, folders.SUMMARY)
        sealed = files.write_sealed_json(path, summary)
        self._remove_partial()
        return sealed

    def _summary(self, progress, proved):
        subject, config, ledger = self.subject, self.config, progress.ledger
        count = len(ledger.label)
        robust = int(ledger.is_robust.sum())
        stages = [
            self._stage_row(index, stage, statistics, ledger)
            for index, (stage, statistics) in enumerate(
                zip(self.stages, progress.stages, strict=True)
            )
        ]
        return {
            "protocol": config["protocol"],
            "protocol_version": config["protocol_version"],
            "threat_model": {
                "norm": self.threat_model.norm,
                "epsilon": float(self.threat_model.epsilon),
            },
            "epsilon_in_model_units": subject.model.preprocessing.epsilon(
                self.threat_model.epsilon
            ),
            "mode": subject.mode,
            "num_samples": subject.num_samples,
            "num_judge_samples": subject.num_judge_samples,
            "num_final_draws": self.runner.num_final_draws,
            "logit_scale": subject.logit_scale,
            "num_examples": count,
            "clean_accuracy": ledger.clean_accuracy,
            "robust_accuracy": ledger.robust_accuracy,
            "robust_accuracy_ci95": list(wilson_interval(robust, count)),
            "expected_accuracy": ledger.expected_accuracy,
            "certified_accuracy": proved.get("certified_accuracy"),
            "certification": proved.get("certification"),
            "stages": stages,
            "gradient_evaluations": int(ledger.gradient_evaluations.sum()),
            "num_nonfinite_examples": int((ledger.num_nonfinite > 0).sum()),
            "num_zero_gradient_examples": int(
                (ledger.num_zero_gradients > 0).sum()
            ),
            "seconds": round(sum(s["seconds"] for s in stages), 3),
            "seed": config["seed"],
            "model": subject.model.describe(),
            "safety": _safety(subject.model),
            "dataset": subject.dataset,
            "versions": self._versions(),
            "command": self.command,
            "epsilon_curve": self._epsilon_curve(
                ledger, robust, count, proved.get("certified_accuracy")
            ),
        }

    def _versions(self):
        """Versions of the libraries, and the commit of the code if known."""
        found = export.describe_versions()
        if self.git_commit:
            found["git_commit"] = self.git_commit
        return found

    def _epsilon_curve(self, ledger, robust, count, certified):
        """The other radii and this one, ascending; empty if there are none."""
        if not self.curve:
            return []
        here = {
            "epsilon": float(self.threat_model.epsilon),
            "robust_accuracy": ledger.robust_accuracy,
            "robust_accuracy_ci95": list(wilson_interval(robust, count)),
            "certified_accuracy": certified,
        }
        return sorted([*self.curve, here], key=lambda row: row["epsilon"])

    def _stage_row(self, index, stage, statistics, ledger):
        broken = (ledger.broken_by_stage <= index) & (
            ledger.broken_by_stage >= 0
        )
        right = ledger.clean_prediction == ledger.label
        count = len(ledger.label)
        last_target = {}
        for restart, _, num_robust, gradients in statistics.curve:
            last_target[restart] = (num_robust / count, gradients)
        targets = None
        if stage.attack.num_targets is not None:
            classes = self.subject.model.num_classes
            targets = num_targets(stage.attack, classes)
        return {
            "name": stage.name,
            "attack": stage.config,
            # As many as there are other classes, where more are asked for.
            "num_targets": targets,
            "num_restarts": stage.num_restarts,
            "robust_accuracy": float((right & ~broken).mean()),
            "num_attacked": statistics.num_attacked,
            "num_broken": int((ledger.broken_by_stage == index).sum()),
            "gradient_evaluations": statistics.gradient_evaluations,
            "seconds": round(statistics.seconds, 3),
            "restart_curve": [v for v, _ in last_target.values()],
            "gradient_curve": [g for _, g in last_target.values()],
        }


def _safety(model) -> dict[str, Any] | None:
    """The safety check in the summary; safety.json has all of it.

    Equal audits have equal summaries, so what differs from run to run stays
    there.
    """
    if model.safety is None:
        return None
    report = model.safety.to_json()
    return {n: report[n] for n in report if n not in folders.SAFETY_ALONE}
