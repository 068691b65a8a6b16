"""Search settings by Optuna.

A killed search goes on. Hydra's own plugin needs Optuna 2, and begins anew.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hydra_plugins.fewshot_sweeps.launchers import MISSING

log = logging.getLogger(__name__)
_SETTINGS = "settings"  # of the study: what all its trials have in common


class OptunaSweeper(Sweeper):
    """Search settings: ``hydra/sweeper=optuna``, see ``conf/hydra/sweeper/optuna.yaml``.

    The study records a trial when its run has ended. A trial that is still *running* there when a search starts was
    stopped or killed: its run is launched again and goes on in its folder.
    """

    config: DictConfig
    launcher: Launcher

    def __init__(
        self,
        n_trials: int,
        n_jobs: int | None,
        seed: int,
        storage: str,
        study_name: str,
        sampler: Any,
        params: Mapping[str, Any],
    ) -> None:
        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.seed = seed
        self.storage = storage
        self.study_name = study_name
        self.sampler = sampler
        self.params = params
        self.wrong: list[str] = []
        for key, value in (("n_trials", n_trials), ("n_jobs", n_jobs or 1), ("seed", seed)):
            if not isinstance(value, int) or value < 0:
                self.wrong.append(f"error: hydra.sweeper.{key}={value}: must be a whole number")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        try:
            import optuna
        except ImportError as error:
            raise CompactHydraException(MISSING.format("hydra/sweeper=optuna")) from error
        if self.wrong:
            raise CompactHydraException(self.wrong[0])
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sampler = instantiate(self.sampler)
        self.hydra_context = hydra_context
        self.loader = hydra_context.config_loader
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        from fewshot.command.run_folder import locked
        from fewshot.errors import UserError

        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        try:
            with locked(folder):
                self._search(arguments, folder)
        except UserError as error:
            raise CompactHydraException(f"error: {error}") from error

    def _search(self, arguments: Sequence[str], folder: Path) -> None:
        import optuna
        from optuna.trial import TrialState
        from sqlalchemy.exc import SQLAlchemyError

        from fewshot.errors import UserError

        fixed, space = self._parse(arguments)
        distributions = {key: _distribution(override) for key, override in space.items()}
        try:
            study = optuna.create_study(
                storage=self.storage, study_name=self.study_name, direction="maximize", load_if_exists=True
            )
        except (optuna.exceptions.OptunaError, SQLAlchemyError) as error:
            raise UserError(f"{self.storage}: {str(error).splitlines()[0]}") from error
        self._check(study, fixed, space)
        waiting = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        for trial in [trial for trial in waiting if trial.params.keys() != space.keys()]:  # killed while proposing it
            study.tell(trial.number, state=TrialState.FAIL)
            waiting.remove(trial)
        missing = self.n_trials - _completed(study)
        at_a_time = self.n_jobs or int(getattr(self.launcher, "at_a_time", 1))
        while missing > 0:
            size = min(at_a_time, missing)
            batch: list[Any] = waiting[:size]
            waiting = waiting[size:]
            while len(batch) < size:
                number = len(study.get_trials(deepcopy=False))
                study.sampler = self.sampler(seed=self.seed + number)  # the same proposals however often it is stopped
                batch.append(study.ask(distributions))
            jobs = [(*fixed, *_overrides(trial)) for trial in batch]
            self.validate_batch_is_legal(jobs)
            different = list(dict.fromkeys(jobs))  # two that are equal would want one folder
            results = dict(zip(different, self.launcher.launch(different, batch[0].number), strict=True))
            for trial, job in zip(batch, jobs, strict=True):
                _record(study, trial.number, results[job])
            missing -= size
        self._conclude(study, folder)

    def _parse(self, arguments: Sequence[str]) -> tuple[list[str], dict[str, Override]]:
        """Return the common settings and the searched space.

        All trials share the common settings. Typed settings win over ``params``.
        """
        parser = OverridesParser.create(config_loader=self.loader)
        named = [f"{key}={value}" for key, value in self.params.items()]
        overrides = {override.get_key_element(): override for override in parser.parse_overrides([*named, *arguments])}
        space = {key: override for key, override in overrides.items() if override.is_sweep_override()}
        if not space:
            raise CompactHydraException(
                "error: nothing to search: type KEY=interval(...), range(...) or choice(...), or set "
                "hydra.sweeper.params"
            )
        return [str(override.input_line) for key, override in overrides.items() if key not in space], space

    def _check(self, study: Any, fixed: list[str], space: Mapping[str, Override]) -> None:
        """Refuse to mix different searches in a study.

        All trials of a study share the fixed settings and the searched space.
        """
        from fewshot.command import run_folder
        from fewshot.errors import UserError

        common = self.loader.load_sweep_config(self.config, fixed)
        try:
            settings = run_folder.identity(common, fixed)
        except OmegaConfBaseException:  # each run will say so
            return
        settings["search"] = {key: str(override.input_line).split("=", 1)[1] for key, override in space.items()}
        stored = study.user_attrs.get(_SETTINGS)
        if stored is None:
            study.set_user_attr(_SETTINGS, settings)
        elif changed := run_folder.differences(stored, json.loads(json.dumps(settings))):
            raise UserError(f"{self.storage} is another search: {'; '.join(changed[:3])}; choose another name")

    def _conclude(self, study: Any, folder: Path) -> None:
        completed = _completed(study)
        log.info("%d of %d trials are complete: %s", completed, self.n_trials, self.storage)
        if completed < self.n_trials:
            log.warning("start the search again to run the others")
        if completed:
            best = study.best_trial
            settings = _overrides(best)
            log.info("best validation accuracy %.2f%%, trial %d: %s", 100 * best.value, best.number, " ".join(settings))
            found = {"name": "optuna", "best_params": best.params, "best_value": best.value}
            OmegaConf.save(OmegaConf.create(found), folder / "optimization_results.yaml")


def _overrides(trial: Any) -> list[str]:
    """Return a trial's settings as overrides.

    The text is as a user would type it, with six digits.
    """
    from optuna.distributions import FloatDistribution

    return [
        f"{key}={value:.6g}" if isinstance(trial.distributions[key], FloatDistribution) else f"{key}={value}"
        for key, value in trial.params.items()
    ]


def _completed(study: Any) -> int:
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))


def _record(study: Any, number: int, result: JobReturn) -> None:
    """Record the result of a trial's run.

    A stopped run is left to the next search.

    Raises:
        UserError: the run has no validation accuracy.
    """
    from optuna.trial import TrialState

    from fewshot.command.sweep_worker import KILLED
    from fewshot.errors import UserError

    accuracy = result.return_value
    if accuracy == KILLED:  # the next search goes on with it
        return
    assert result.hydra_cfg is not None
    out = Path(result.hydra_cfg.hydra.runtime.output_dir)
    if accuracy is not None:
        study.tell(number, accuracy)
    elif (out / "error.txt").is_file():
        study.tell(number, state=TrialState.FAIL)
    elif (out / "result.json").is_file():
        raise UserError("a search needs validation accuracy: task.val_episodes must be above 0")


def _distribution(override: Override) -> Any:
    """Return Optuna's distribution for a sweep override."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep: Any = override.value()
    try:
        if override.is_choice_sweep():
            choices: Any = override.sweep_iterator(Transformer.encode)
            return CategoricalDistribution(list(choices))
        if override.is_interval_sweep():
            low = sweep.start
            high = sweep.end
            step = None
            logarithmic = "log" in sweep.tags
        else:
            values: Any = list(sweep.range())  # without the end, as in a sweep
            if not values:
                raise ValueError("there is nothing in it")
            low = min(values)
            high = max(values)
            step = abs(sweep.step)
            logarithmic = False
        if all(isinstance(value, int) for value in (low, high, step or 1)):
            return IntDistribution(low, high, logarithmic, step or 1)
        return FloatDistribution(low, high, logarithmic, step)
    except ValueError as error:
        raise CompactHydraException(f"error: {override.input_line}: {error}") from error
