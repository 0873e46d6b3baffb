"""The red-team suite: what attackers try, against this version of snapper or another (`python -m tests.redteam`)."""
