"""An evaluator of the section Rules, after "Rule functions" in the CloudFormation Template Reference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.deploy.practices import Template


def violations(template: Template, parameters: Mapping[str, str]) -> list[str]:
    """Return the descriptions of the assertions that fail with these parameters.

    Parameters
    ----------
    template
    parameters
        Values that differ from the defaults.
    """
    values = {name: _value(one, parameters) for name, one in _named(template)}
    return [
        assertion["AssertDescription"]
        for rule in template["Rules"].values()
        if "RuleCondition" not in rule or evaluate(rule["RuleCondition"], values)
        for assertion in rule["Assertions"]
        if not evaluate(assertion["Assert"], values)
    ]


def _named(template: Template) -> list[tuple[str, dict[str, Any]]]:
    return [(name, {**one, "Name": name}) for name, one in template["Parameters"].items()]


def _value(parameter: dict[str, Any], parameters: Mapping[str, str]) -> Any:
    text = str(parameters.get(parameter["Name"], parameter.get("Default")))
    return text.split(",") if parameter["Type"] == "CommaDelimitedList" else text


def evaluate(condition: Any, values: Mapping[str, Any]) -> bool:
    """Return whether a condition or an assertion of a rule holds.

    Raises
    ------
    ValueError
        If the section Rules does not know the function, or does not allow as many conditions.
    """
    ((function, arguments),) = condition.items()
    match function, arguments:
        case "Fn::Not", [one]:
            return not evaluate(one, values)
        case "Fn::And" | "Fn::Or", [*conditions] if 2 <= len(conditions) <= 10:
            results = [evaluate(each, values) for each in conditions]
            return all(results) if function == "Fn::And" else any(results)
        case "Fn::Equals", [left, right]:
            return bool(_resolve(left, values) == _resolve(right, values))
        case "Fn::Contains", [members, text]:
            return _resolve(text, values) in _strings(_resolve(members, values))
        case "Fn::EachMemberEquals", [members, text]:
            expected = _resolve(text, values)
            return all(each == expected for each in _strings(_resolve(members, values)))
    raise ValueError(f"{function} with {arguments}")


def _resolve(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        ((function, name),) = value.items()
        if function != "Ref":
            raise ValueError(f"{function} in an argument of a rule function")
        return values[name]
    if not isinstance(value, str | list):
        raise ValueError(f"{value!r} is compared as a string and must be written as one")
    return value


def _strings(members: Any) -> list[str]:
    if not isinstance(members, list) or not all(isinstance(each, str) for each in members):
        raise ValueError(f"{members!r} is not a list of strings")
    return members


def refused_values(template: Template, parameters: Mapping[str, str]) -> list[str]:
    """Return the parameters that have a value which their own limits refuse."""
    return [
        name
        for name, value in parameters.items()
        if not _is_allowed(template["Parameters"][name], value)
    ]


def _is_allowed(parameter: dict[str, Any], value: str) -> bool:
    if value not in map(str, parameter.get("AllowedValues", [value])):
        return False
    if not re.search(parameter.get("AllowedPattern", ""), value):
        return False
    if "MinValue" in parameter:
        return bool(parameter["MinValue"] <= float(value) <= parameter["MaxValue"])
    return bool(len(value) <= parameter.get("MaxLength", len(value)))
