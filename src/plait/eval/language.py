"""Codes of languages, as `--lang` takes them, and letters of unspaced scripts; imports nothing heavy."""

from __future__ import annotations

from plait.errors import ConfigError

ISO_639_1 = (
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de "
    "dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id "
    "ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu "
    "lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu "
    "rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr "
    "ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu "
)
# of ISO 639-3, those of the languages that are not cut at spaces
LONGER = {"zho": "zh", "cmn": "zh", "yue": "zh", "wuu": "zh", "jpn": "ja", "kor": "ko"}
# what is written without spaces between words: kana and their extensions, ideographs (with 々 and 〇),
# compatibility ideographs, the planes 2 and 3
CJK = (
    "々〇\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)


def primary(lang: str | None) -> str:
    """The language of a code, without script or region: `zh` for `zh-CN`, `zho`; empty for None.

    Raises:
        ConfigError: no such language.
    """
    if lang is None:
        return ""
    code = lang.replace("_", "-").partition("-")[0].lower()
    code = LONGER.get(code, code)
    if code not in ISO_639_1.split():
        raise ConfigError(f"lang={lang!r} is no code of a language; use zh, en, ja, de and so on (ISO 639-1)")
    return code
