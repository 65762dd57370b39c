"""Where layers and caches go: what the machine has, how much fits it, and the plan that is made of both.

`plan.plan_load` makes the `LoadPlan` from headers, a `ModelConfig` and a `Machine`. It is pure; only
`machine.this_machine` looks at the machine.
"""
