"""The output of commands when a training or an audit is finished."""

from typing import Any


def print_training(result: dict[str, Any], workdir: str) -> None:
    """Prints the result of a training, and the path of its SavedModel."""
    from ib_keras import files
    from ib_keras.training import settings

    both = [
        f"{name.replace('_', ' ')} {result[name]:.4f}"
        for name in ("accuracy", "accuracy_stochastic")
        if name in result
    ]
    print(f"Step {result['step']}: {', '.join(both)}.")
    print(f"SavedModel: {files.join(workdir, settings.SAVED_MODEL)}")


def print_audit(summary: dict[str, Any]) -> None:
    """Prints the numbers of an audit, a line for each stage."""
    low, high = summary["robust_accuracy_ci95"]
    threat_model = summary["threat_model"]
    print(
        f"{summary['protocol']}, {summary['mode']} mode, "
        f"{threat_model['norm']} {threat_model['epsilon']:g}: clean accuracy "
        f"{summary['clean_accuracy']:.4f}, robust accuracy "
        f"{summary['robust_accuracy']:.4f} (95% interval {low:.4f} to "
        f"{high:.4f}), {summary['num_examples']} examples, "
        f"{summary['gradient_evaluations']} gradient evaluations."
    )
    if summary.get("logit_scale", 1.0) != 1.0:
        print(
            f"  Logits of an unusual scale: attacked times "
            f"{summary['logit_scale']:g}, which changes no prediction."
        )
    _print_certificates(summary)
    for stage in summary["stages"]:
        print(
            f"  after {stage['name']}: {stage['robust_accuracy']:.4f} "
            f"({stage['num_broken']} of {stage['num_attacked']} broken)"
        )


def _print_certificates(summary: dict[str, Any]) -> None:
    """Prints what is proved, if certificates were asked for."""
    found = summary.get("certification")
    if not found:
        return
    if found["reason"]:
        print(f"  Not certified: {found['reason']}")
        return
    low, high = summary["certified_accuracy"], summary["robust_accuracy"]
    noise = ""
    if found["confidence"] is not None:
        noise = (
            ", on fresh noise at a confidence of "
            f"{100 * found['confidence']:g}% an example"
        )
    print(
        f"  Certified accuracy {low:.4f} by {found['method']} in "
        f"{found['seconds']:.1f} s{noise}: the truth is between {low:.4f} and "
        f"{high:.4f} on these examples."
    )


def print_verdict(workdir: str) -> Any:
    """Prints the verdict of an audit folder, and returns it; None if none."""
    from ib_keras.audit.formats import verdicts
    from ib_keras.audit.report import load
    from ib_keras.audit.report import text

    verdict = verdicts.of(load.load(workdir))
    if verdict is None:
        print("Verdict: none, for no diagnostics were run.")
        return None
    print(f"Verdict: {text.clean(verdicts.sentence(verdict))}")
    for reason in verdict.decided_by:
        print(f"  {text.clean(reason.id)}: {text.clean(reason.why, 400)}")
    for step in verdict.next_steps:
        print(f"  Next: {text.clean(step, 400)}")
    return verdict
