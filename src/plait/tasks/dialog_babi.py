"""Dialogue bAbI (Bordes et al. 2017): each response of the bot, word for word."""

from dataclasses import replace

from plait.tasks import chat

TASK = replace(chat.TASK, name="dialog-babi", metrics=("accuracy",), format="dialog-babi")
