"""A view that is refreshed in the terminal, scrolls, and ends with a key."""

import io
import threading
from collections.abc import Callable

from prompt_toolkit.application import Application
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import FormattedTextControl, Layout, Window
from rich.console import Console, RenderableType
from rich.text import Text

# Seconds between two looks.
LOOK_SECONDS = 1.0
KEYS = "q quits; arrows, PgUp, PgDn, Home and End scroll"


class LiveView:
    """What is read again and again, a screen of it at a time."""

    def __init__(self, read: Callable[[], RenderableType]) -> None:
        """Prepare a view.

        Args:
            read: Returns what is to be shown; it may take as long as it needs.
        """
        self.read = read
        self.top = 0
        self.shown: RenderableType = Text("asking Redis …")
        self.error: Exception | None = None
        self.ended = threading.Event()
        window = Window(FormattedTextControl(self._screen, show_cursor=False), always_hide_cursor=True)
        self.screen: Application[None] = Application(
            Layout(window), key_bindings=self._keys(), full_screen=True
        )

    def run(self) -> None:
        """Show it until a key ends it.

        Raises:
            Exception: Whatever reading raised.
        """
        # A server that does not answer must not hold the keys up.
        threading.Thread(target=self._look, name="look", daemon=True).start()
        try:
            self.screen.run()
        finally:
            self.ended.set()
        if self.error is not None:
            raise self.error

    def _look(self) -> None:
        while not self.ended.is_set():
            try:
                self.shown = self.read()
            except Exception as error:  # noqa: BLE001 -- run() raises it
                self.error = error
                self.ended.set()
            self.screen.invalidate()
            self.ended.wait(LOOK_SECONDS)

    def _end(self) -> None:
        if not self.screen.is_done:
            self.screen.exit()

    def _screen(self) -> ANSI:
        """Return the lines that the terminal has room for."""
        if self.error is not None:
            self._end()
        size = self.screen.output.get_size()
        console = Console(
            file=io.StringIO(), width=size.columns, force_terminal=True, color_system="standard",
            markup=False, emoji=False, highlight=False,
        )  # fmt: skip
        with console.capture() as found:
            console.print(self.shown, crop=False)
        lines = found.get().splitlines()
        room = max(1, size.rows - 1)
        self.top = max(0, min(self.top, len(lines) - room))
        page = lines[self.top : self.top + room]
        more = f"lines {self.top + 1}-{self.top + len(page)} of {len(lines)}; " if len(lines) > room else ""
        foot = (more + KEYS)[: size.columns]
        return ANSI("\n".join([*page, *[""] * (room - len(page)), f"\x1b[2m{foot}\x1b[0m"]))

    def _keys(self) -> KeyBindings:
        bindings = KeyBindings()

        def page() -> int:
            return max(1, self.screen.output.get_size().rows - 2)

        def scroll(*keys: str, by: Callable[[], int]) -> None:
            def move(_: KeyPressEvent) -> None:
                self.top += by()

            for key in keys:
                bindings.add(key)(move)

        def end(_: KeyPressEvent) -> None:
            self._end()

        for key in ("q", "Q", "c-c", "<sigint>"):
            bindings.add(key)(end)
        scroll("up", "k", by=lambda: -1)
        scroll("down", "j", by=lambda: 1)
        scroll("pageup", "b", by=lambda: -page())
        scroll("pagedown", "space", by=page)
        scroll("home", "g", by=lambda: -self.top)
        # The last screen is as far as it goes.
        scroll("end", "G", by=lambda: 1_000_000)
        return bindings
