"""Recognise class folders in a listing of files, whatever is above and next to them, and turn them into rows."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from signsclf import images
from signsclf.choices import Layout, Reading
from signsclf.data.archives import inner_archives, is_archive_name
from signsclf.data.formats import how_to_convert
from signsclf.data.gtsrb import CLASS_NAMES, class_id, is_gtsrb_folder_names
from signsclf.data.layouts import ParsedSource, Row, gtsrb_tracks_fit, stem, tracks
from signsclf.data.splits import UNLABELLED, annotated_stem, is_annotation_folder, is_container, split_of, splits_of
from signsclf.data.tree import Tree, some
from signsclf.errors import SourceError
from signsclf.imagefiles.hidden import hidden_text
from signsclf.imagefiles.kinds import is_photo_suffix, skipped_text
from signsclf.text import count

_NAME_AND_NUMBER = re.compile(r"(.*[^\W\d_])[\W_]*[0-9]+\)?")
_SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
_NO_LABELS = re.compile(r"read.?me|licen[cs]e|requirements|package|config|classes|wnids|words|.*infos?\.", re.I)
_BESIDE_SPLITS = "beside the split folders (call it train, valid or test to use it)"


@dataclass(frozen=True, kw_only=True)
class _Class:
    """A class folder: its split, its parent folder (ending in '/', or ''), its name, the images in it."""

    split: str | None
    parent: str
    name: str
    images: list[str]


@dataclass(kw_only=True)
class _Walk:
    """The search for class folders in a tree: the classes found so far, and notes for the user."""

    tree: Tree
    classes: list[_Class] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Reason to the folders that are left out for it, and the images in each."""
    inner_splits: bool = False
    """Whether each class folder has split folders."""

    def leave_out(self, folder: str, names: list[str], why: str) -> None:
        """Record that a folder's images are left out, and why."""
        self.left_out.setdefault(why, {})[folder] = names

    @property
    def images_left_out(self) -> set[str]:
        """Images that were left out."""
        return {name for folders in self.left_out.values() for names in folders.values() for name in names}

    def all_notes(self) -> list[str]:
        """Return all notes, with a line for each reason why folders were left out."""
        lines = []
        for why, folders in self.left_out.items():
            lines.append(f"left out, {why}: {some(list(folders))} ({count(sum(map(len, folders.values())), 'image')})")
        return [*self.notes, *lines]

    def below(self, names: list[str], base: str) -> dict[str, list[str]]:
        """Do the same as `_below`, without folders of annotations next to folders of images."""
        inside = _below(names, base)
        folders = [folder for folder in inside if folder]
        for folder in [f for f in folders if is_annotation_folder(f, folders)]:
            if _are_annotations(folder, inside):
                self.leave_out(f"{base}{folder}/", inside.pop(folder), "annotations beside the images")
        return inside

    def of_class(self, found: _Class) -> list[str]:
        """Return a class folder's images without the annotations next to them."""
        inside = self.below(found.images, f"{found.parent}{found.name}/")
        kept = [name for names in inside.values() for name in names]
        each = [posixpath.splitext(name)[0] for name in kept]
        stems = set(each)
        of_others: set[str] = set()
        for name, bare in zip(kept, each, strict=True):
            folder, slash, own = bare.rpartition("/")
            image = annotated_stem(own)
            if image is not None and f"{folder}{slash}{image}" in stems:
                self.leave_out(name, [name], "called as annotations of the images beside them")
                of_others.add(name)
        return [name for name in kept if name not in of_others]

    def unwrap(self, names: list[str], base: str, part: str | None = None) -> tuple[str, dict[str, list[str]]]:
        """Descend from ``base`` while all images are in a single folder that is neither a class nor a split.

        Args:
            part: the split of ``base``; a folder of the same name in it is not another split.
        """
        while True:
            inside = self.below(names, base)
            folders = [folder for folder in inside if folder]
            if len(folders) != 1:
                return base, inside
            deeper = f"{base}{folders[0]}/"
            within = _below(inside[folders[0]], deeper)
            # A folder called 'train' may contain the whole data set, with the splits in it.
            is_split = split_of(folders[0]) not in (None, part) and len(set(splits_of(within).values())) < 2
            deeper_folders = within.keys() - {""}
            # A folder of class folders is not a class because of a few loose images in it.
            is_class = "" in within and (len(deeper_folders) < 2 or len(within[""]) > len(deeper_folders))
            if is_class or is_split:
                return base, inside
            names, base = inside[folders[0]], deeper

    def parts(self, inside: dict[str, list[str]], base: str) -> dict[str, str]:
        """Find the split folders below ``base``: they are named so and have folders in them, unlike a class named so.

        Raises:
            SourceError: two folders are the same split.
        """
        holders = [name for name in inside if name and any("/" in n[len(base) + len(name) + 1 :] for n in inside[name])]
        roles = splits_of([name for name in inside if name])
        parts = {name: roles[name] for name in roles if name in holders and roles[name] != UNLABELLED}
        if twice := [split for split, n in Counter(parts.values()).items() if n > 1]:
            both = " and ".join(f"{folder}/" for folder in parts if parts[folder] == twice[0])
            raise SourceError(f"{self.tree.root}: {both} are both {twice[0]}; keep one")
        if unusual := [name for name in parts if parts[name] != split_of(name)]:
            self.notes.append(f"split folders: {_named(unusual, parts)}")
        if parts:
            unlabelled = {name for name, role in roles.items() if role == UNLABELLED}
            for folder in sorted(unlabelled):
                self.leave_out(f"{base}{folder}/", inside[folder], "unlabelled by the folder's name")
            for folder in sorted(set(holders) - parts.keys() - unlabelled):
                self.leave_out(f"{base}{folder}/", inside[folder], _BESIDE_SPLITS)
            present = {folder[len(base) :] for folder in self.tree.folders if folder.startswith(base)}
            roles = splits_of({folder for folder in present | parts.keys() if "/" not in folder})
            missing = {folder for folder, split in roles.items() if split not in parts.values()}
            for folder in sorted(missing - inside.keys()):
                self.notes.append(f"the split folder {base}{folder}/ holds no images")
        return parts


def read_folders(tree: Tree, reading: Reading | None = None) -> ParsedSource:
    """Read CLASS/image, SPLIT/CLASS/image or CLASS/SPLIT/image, below any number of folders with nothing else in them.

    GTSRB's 43 folders get the names of its signs, unless the layout "folders" was requested; fewer of them do only if
    the layout "gtsrb" was. Whatever is assumed or left out is noted.

    Raises:
        SourceError: there are no images, or no class folders.
    """
    reading = reading or Reading()
    names = tree.image_names
    if not names:
        raise _no_images(tree)
    walk = _Walk(tree=tree)
    if reading.class_level is None:
        base = _recognise(walk)
    else:
        _descend(walk, names, "", None, reading.class_level)
        parents = [found.parent for found in walk.classes]
        shared = posixpath.commonpath(parents) if parents and all(parents) else ""
        base = f"{shared}/" if shared else ""
        if not walk.classes:
            raise SourceError(_no_such_level(tree, reading.class_level))
    walk.classes = [replace(found, images=walk.of_class(found)) for found in walk.classes]
    empty = _empty_folders(tree, {found.parent for found in walk.classes})
    _refuse_vanishing(tree, {found.parent for found in walk.classes}, empty)
    is_gtsrb, more = _signs(walk.classes, empty, reading.layout)
    if reading.class_level is None:
        more += _levels(walk.classes, int(walk.inner_splits))
    rows = [
        Row(tree.files[name], CLASS_NAMES[int(found.name)] if is_gtsrb else found.name, found.split)
        for found in walk.classes
        for name in found.images
    ]
    groups = tracks([row.label for row in rows], [row.path for row in rows], kaggle=is_gtsrb)
    rows = [row._replace(group=group) for row, group in zip(rows, groups, strict=True)]
    notes = [*walk.all_notes(), *more]
    if empty:
        notes.append(f"folders without images are not classes ({len(empty):,}): {some(empty)}")
    mounted = {found.parent.partition("/")[0] for found in walk.classes}
    others = tree.files.keys() - set(names) - mounted if len(tree.files) > len(names) else set()
    if packed := sorted(filter(is_archive_name, others)):
        notes.append(f"archives among the files are not looked into ({len(packed):,}): {some(packed)}")
    used = walk.images_left_out.union(*(found.images for found in walk.classes))
    if stray := [name for name in names if name not in used]:
        notes.append(f"images in no class folder are left out ({len(stray):,}): {some(stray)}")
    return ParsedSource(layout=Layout.FOLDERS, rows=rows, base=base, is_gtsrb=is_gtsrb, notes=tuple(notes))


def _recognise(walk: _Walk) -> str:
    """Find the class folders if no level was requested; return the folder to which names are relative."""
    tree = walk.tree
    base, inside = walk.unwrap(tree.image_names, "")
    parts = walk.parts(inside, base)
    if not parts:
        walk.classes = _without_copies(walk, None, base, inside)
        names = {found.name for found in walk.classes}
        are_splits = all(map(split_of, names)) or names == splits_of(names).keys()
        if are_splits or _is_only_a_container(walk.classes):
            raise SourceError(_no_classes(walk))
        walk.classes = _with_inner_splits(walk)
        return base
    found = {folder: walk.unwrap(inside[folder], f"{base}{folder}/", split) for folder, split in parts.items()}
    for folder, (parent, within) in found.items():
        elsewhere = {name for other in found if other != folder for name in found[other][1]}
        # A doubled folder of unlabelled images, test/test/1.png, is not a class 'test',
        # and neither is test/images/.
        if any(name in elsewhere or not (_is_doubled(name, folder) or is_container(name)) for name in within if name):
            walk.classes += _without_copies(walk, parts[folder], parent, within)
        elif len(found) > 1:
            walk.leave_out(f"{base}{folder}/", inside[folder], "no class folders in it")
    if not walk.classes or _is_only_a_container(walk.classes):
        raise SourceError(_no_classes(walk))
    return base


def _descend(walk: _Walk, names: list[str], base: str, split: str | None, levels: int) -> None:
    """Find the class folders at a given number of levels below ``base``."""
    if levels == 1:
        walk.classes += [
            _Class(split=split, parent=base, name=name, images=within)
            for name, within in _below(names, base).items()
            if name
        ]
        return
    inside = walk.below(names, base)
    parts = {} if split else walk.parts(inside, base)
    for folder in inside:
        if folder and (folder in parts or not parts):
            _descend(walk, inside[folder], f"{base}{folder}/", parts.get(folder, split), levels - 1)


def _without_copies(walk: _Walk, split: str | None, parent: str, inside: dict[str, list[str]]) -> list[_Class]:
    """Make classes of the folders directly below ``parent``, except folders with a copy of the whole data set."""
    folders = {name: within for name, within in inside.items() if name}
    parent_name = posixpath.basename((parent or walk.tree.root).rstrip("/")).casefold()
    for name in list(folders):
        base, within = f"{parent}{name}/", _below(folders[name], f"{parent}{name}/")
        while len(within) == 1 and "" not in within:
            base += f"{next(iter(within))}/"
            within = _below(folders[name], base)
        shared = within.keys() & folders.keys() - {name}
        if "" in within or len(shared) < 2 or 2 * len(shared) < len(within):
            continue
        here = {image[len(parent) :] for other in folders if other != name for image in folders[other]}
        new = sum(image[len(base) :] not in here for image in folders[name])
        if not new or name.casefold() == parent_name:
            only = f", {new:,} images only there" if new else ""
            why = f"the class folders once more, {len(shared):,} of those beside it{only}"
            walk.leave_out(f"{parent}{name}/", folders.pop(name), why)
    return [_Class(split=split, parent=parent, name=name, images=within) for name, within in folders.items()]


def _with_inner_splits(walk: _Walk) -> list[_Class]:
    """Split classes with split folders, CLASS/SPLIT/image, into one class for each split; others stay as they are."""
    inner = [(found, _below(found.images, f"{found.parent}{found.name}/")) for found in walk.classes]
    names = {name for _, within in inner for name in within}
    roles = splits_of(names)
    if "train" not in roles.values() or names - roles.keys():
        return walk.classes
    walk.inner_splits = True
    walk.notes.append(f"splits by the folders in each class: {_named(roles, roles)}")
    for found, within in inner:
        for name in [name for name in within if roles[name] == UNLABELLED]:
            walk.leave_out(f"{found.parent}{found.name}/{name}/", within.pop(name), "unlabelled by the folder's name")
    return [
        _Class(split=roles[name], parent=c.parent, name=c.name, images=within[name])
        for c, within in inner
        for name in within
    ]


def _signs(classes: list[_Class], empty: list[str], layout: Layout | None) -> tuple[bool, list[str]]:
    """Tell whether the class folders are GTSRB's, with notes for the user."""
    folders = {found.name for found in classes}
    if layout is Layout.GTSRB:
        return all(class_id(name) is not None for name in folders), []
    whole = is_gtsrb_folder_names(folders) or is_gtsrb_folder_names(folders | set(empty))
    if layout is Layout.FOLDERS or not whole:
        return False, []
    fit = gtsrb_tracks_fit(image for found in classes for image in found.images)
    if fit is None:
        return True, ["folders 0 to 42 are taken for GTSRB's classes; --layout folders keeps the folders' own names"]
    if fit:
        return True, []
    why = "folders 0 to 42 as GTSRB has, but files that are none of its tracks"
    return False, [f"{why}: the folders' own names count; --layout gtsrb gives GTSRB's"]


def _levels(classes: list[_Class], between: int) -> list[str]:
    """Note folders within the class folders, whose images belong to those classes.

    Args:
        between: the number of levels (of splits) between a class and those folders.
    """
    deeper = {
        rest[between]: None
        for found in classes
        for image in found.images
        if len(rest := image[len(found.parent) + len(found.name) + 1 :].split("/", between + 1)) > between + 1
    }
    if all(map(is_container, deeper)):
        return []
    level = 1 + max(found.parent.count("/") for found in classes)
    names = list(dict.fromkeys(found.name for found in classes))
    here = f"the classes are the {count(len(names), 'folder')} of level {level} ({some(names, 2)})"
    below = f"{count(len(deeper), 'folder')} of level {level + between + 1} ({some(list(deeper), 2)})"
    return [f"{here}, which hold {below}: --class-level {level + between + 1} takes those"]


def _below(names: Iterable[str], base: str) -> dict[str, list[str]]:
    """Group names by the folder directly below ``base``; '' for names in ``base`` itself."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        head, slash, _ = name[len(base) :].partition("/")
        found[head if slash else ""].append(name)
    return found


def _are_annotations(folder: str, inside: dict[str, list[str]]) -> bool:
    """Tell whether a folder named so has annotations: all siblings are images', or its files are named like theirs."""
    holders = [name for name in inside if is_container(name)]
    if all(name in holders or name == "" or is_annotation_folder(name, inside) for name in inside):
        return True
    stems = {stem(name) for holder in holders for name in inside[holder]}
    own = [stem(name) for name in inside[folder]]
    return 2 * sum(text in stems or re.sub(r"[_-][^_-]*$", "", text) in stems for text in own) >= len(own)


def _is_doubled(name: str, folder: str) -> bool:
    """Tell whether a folder in a split folder has the same name."""
    return name.casefold() == folder.casefold()


def _is_only_a_container(classes: list[_Class]) -> bool:
    names = {found.name for found in classes}
    return len(names) == 1 and is_container(names.pop())


def _empty_folders(tree: Tree, parents: set[str]) -> list[str]:
    """Name the siblings of class folders that have no image at any depth."""
    full = {posixpath.dirname(name) for name in tree.image_names}
    full |= {ancestor for folder in full for ancestor in _ancestors(folder)}
    siblings = {folder for folder in tree.folders if folder[: folder.rfind("/") + 1] in parents}
    return sorted({posixpath.basename(folder) for folder in siblings - full})


def _ancestors(folder: str) -> Iterator[str]:
    while folder := posixpath.dirname(folder):
        yield folder


def _no_images(tree: Tree) -> SourceError:
    """Make the error for a source without images: what there is instead, and what to do."""
    kind = "archive" if tree.is_archive else "folder"
    if tree.skipped:
        return SourceError(
            f"{tree.root}: no images that can be read in this {kind}: {skipped_text(tree.skipped.values())}"
        )
    if tree.hidden:
        return SourceError(f"{tree.root}: hidden images alone in this {kind}: {hidden_text(tree.hidden)}")
    notes = "".join(f"; {note}" for note in tree.notes)
    if archives := inner_archives(tree.files, tree.is_archive, tree.root):
        return SourceError(f"{tree.root}: {archives}{notes}")
    if not tree.files:
        return SourceError(f"{tree.root}: an empty {kind}{notes}; give one with a folder of images for each class")
    kinds = Counter(posixpath.splitext(name)[1].lower() or "without suffix" for name in tree.files)
    counts = ", ".join(f"{n:,} {suffix}" for suffix, n in kinds.most_common(3))
    suffixes = " ".join(sorted(images.SUFFIXES))
    return SourceError(
        f"{tree.root}: no images in this {kind}, only other files ({counts}){notes}; looked for {suffixes}"
    )


def _refuse_vanishing(tree: Tree, parents: set[str], empty: list[str]) -> None:
    """Refuse a source in which a class has photos, but none in a format that is read."""
    lost: dict[str, list[str]] = {}
    for name, suffix in tree.skipped.items():
        if is_photo_suffix(suffix):
            for folder in empty:
                if any(name.startswith(f"{base}{folder}/") for base in parents):
                    lost.setdefault(folder, []).append(suffix)
    linked = Counter(
        folder
        for name in filter(images.is_image_name, tree.broken)
        for folder in empty
        if any(name.startswith(f"{base}{folder}/") for base in parents)
    )
    if lost or linked:
        described = [f"{folder!r}: {skipped_text(suffixes)}" for folder, suffixes in lost.items()]
        described += [f"{folder!r}: {n:,} broken links (fetch the files they point to)" for folder, n in linked.items()]
        shown = "; ".join(described[:3])
        n = len(lost.keys() | linked.keys())
        what = "a class" if n == 1 else f"{n:,} classes"
        raise SourceError(
            f"{tree.root}: {what} would be lost, with no file that can be read: {shown}; "
            "or move folders that are no classes elsewhere"
        )


def _no_classes(walk: _Walk) -> str:
    """Describe what there is in place of class folders, and what to do."""
    names = [name for name in walk.tree.image_names if name not in walk.images_left_out]
    holders = list(dict.fromkeys(posixpath.dirname(name) for name in names))
    shown = [f"{folder}/" for folder in holders[:3] if folder]
    where = f" in {' and '.join(shown)}" if shown else ""
    way = "give each class a folder of its own, or a csv with the columns path and label"
    matches = [_NAME_AND_NUMBER.fullmatch(stem(name)) for name in names]
    labels = Counter(match[1] for match in matches if match)
    if len(labels) > 1 and 2 * sum(labels.values()) >= len(names) and max(labels.values()) > 1:
        said = ", ".join(f"{label!r} {n:,}" for label, n in labels.most_common(3))
        example = next(f"{name},{match[1]}" for name, match in zip(names, matches, strict=True) if match)
        way = f"their labels seem to be in their names ({said}): {way}, one row an image such as {example}"
    way += _labels_beside(walk.tree)
    return f"{walk.tree.root}: {count(len(names), 'image')} but no class folders{where}; {way}"


def _labels_beside(tree: Tree) -> str:
    """Suggest a file next to the images that may have their labels but is only read if given."""
    stems = {posixpath.splitext(name)[0] for name in tree.image_names}
    for name in sorted(tree.files, key=lambda name: (name.count("/"), name)):
        bare, suffix = posixpath.splitext(name)
        if bare in stems or _NO_LABELS.match(posixpath.basename(name)):
            continue
        if suffix.lower() in (".txt", ".json"):
            return f"; if {name!r} tells the labels, give that file"
        if suffix.lower() in _SPREADSHEETS:
            return f"; {name!r} is {how_to_convert(name)}"
    return ""


def _no_such_level(tree: Tree, level: int) -> str:
    deepest = max(name.count("/") for name in tree.image_names)
    return (
        f"{tree.root}: --class-level {level}: its images lie in folders down to level {deepest} only; give one of these"
    )


def _named(folders: Iterable[str], splits: dict[str, str]) -> str:
    return ", ".join(f"{folder}/ is {splits[folder]}" for folder in folders)
