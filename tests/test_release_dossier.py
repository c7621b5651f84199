"The dossier: missing is never PASS, the worst run counts, nothing small and nothing secret is printed."
import io
import json
import re
import zipfile
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from docx import Document
from docx.oxml.ns import qn

from synkmimic.core import SynkError
from synkmimic.release.documents import DOCUMENTS, STATUS, texts, to_docx, write_dossier
from synkmimic.release.dossier import build_dossier, dossier_schema, hide_small, hide_text, validate_dossier
from synkmimic.release.policy import default_policy, freeze_policy, read_lock, read_policy, require_policy
from synkmimic.stats import COLUMNS, Estimate, no_score, score, score_frame

POLICY = read_policy()
OPEN = POLICY.verdict['open']

def value_for(item):
    "A value that obeys an item's rule, with its interval."
    if item.limit_reads: return 0.3
    if item.rule == 'within': return sum(item.limit)/2
    if item.rule in ('==',): return float(item.limit)
    if item.rule == 'show': return 0.2
    return item.limit - 0.02 if item.rule in ('<=', '<') and item.limit else item.limit if item.rule in ('<=', '<') else item.limit + 0.05

def literal(patterns): return patterns[0].replace('*', 'x') if patterns else ''

def good_scores(run=0, change=None, drop=()):
    "Scores with which every item that is measured passes; `change` item id -> (value, low, high)."
    rows, change = [], change or {}
    for item in POLICY.items:
        if not item.reads or item.id in drop: continue
        spec, v = POLICY.metrics[item.reads], value_for(item)
        e = Estimate(*change.get(item.id, (v, v - 0.01 if item.bound == 'low' and item.rule == '<=' else v, v)), 4000)
        rows.append(score(spec['metric'], literal(spec.get('feature')), e, literal(spec.get('group'))))
        if item.limit_reads:
            spec = POLICY.metrics[item.limit_reads]
            limit = 0.4517 if item.exposure == 'status' else 0.4
            rows.append(score(spec['metric'], literal(spec.get('feature')), Estimate(limit, limit, limit, 4000), literal(spec.get('group'))))
    return score_frame(rows, 'privacy', {r['metric']: 'target' for r in rows}).assign(arm='gan', run=run)

SECRET = dict(seed=918273, lr=0.0718253, extra='hyper-secret')

def good_facts(lock=None, **more):
    columns = [{'name': 'age', 'type': 'number', 'description': '나이', 'class': 'quasi', 'area': '기본'},
               {'name': 'hr', 'type': 'number', 'description': '심박수', 'class': 'general', 'area': '활력'}]
    return dict(
        title='합성 중환자실 레지스트리', version='0.1.0', arm='gan', created='2026-02-03', policy_lock=lock,
        run=dict(name='demo', started='2026-01-10', seed=SECRET['seed'], code_hash='c0de', data_hash='da7a'),
        purpose=dict(purpose='연구', users='연구자', tier='open'),
        legal_basis=dict(ground='PIPA Art. 28-2', irb='IRB-1', drb='DRB-1', agreement='KHDP', combination='none'),
        original=dict(name='K-MIMIC', people=3992, deaths=320, columns=columns), synthetic=dict(name='SYN', stays=4000, columns=columns, examples=[dict(age=61, hr=88)]),
        screen=dict(records_left=0), special=dict(nationality_levels=0, counts=dict(minors=0, elderly=800)),
        preprocessing=dict(log=['나이를 5세 구간으로'], min_people=11), profile=dict(k=11), split=dict(people_overlap=0),
        generation=dict(method='VAE-GAN', versions='1', code='abc', hardware='cpu', seeds=[SECRET['seed']], settings=dict(lr=SECRET['lr'], note=SECRET['extra']), wall_seconds=9,
                        synthesis='full', runs=5, weights_published=False, post_filters='none', dp='none', loss_gap=0.0123987),
        lint=dict(provenance_violations=0, small_cells=0), cumulative=dict(failed=0), epidemiology=dict(text='x'), statement=dict(ko='설명', en='statement'),
        committee=dict(members=5, decision=dict(decision='approved', conditions='none', valid_until='2027-02-01')), attacks=dict(people=['person-77-secret']),
        plan=dict(owner='홍길동 owner', contact='a@b.kr', reverify_months=12, record_years=3), terms=dict(licence='CC BY 4.0', report_days=7),
        confirmed={i: dict(by='IRB secretary', on='2026-02-01') for i in ('1.2', '1.5', '4.1', '4.2')}) | more

@pytest.fixture(scope='module')
def lock(tmp_path_factory): return freeze_policy(None, tmp_path_factory.mktemp('run'), '2026-01-05')

def runs(**last): return pd.concat([*(good_scores(k) for k in range(4)), good_scores(4, **last)], ignore_index=True)
def item(d, id): return next(i for i in d['items'] if i['id'] == id)
def built(lock, scores=None, variant='committee', **facts): return build_dossier(runs() if scores is None else scores, POLICY, good_facts(lock, **facts), variant)

def words(folder):
    "Every text of a folder, archives opened."
    out = {}
    for p in sorted(folder.rglob('*')):
        if p.suffix == '.docx':
            with zipfile.ZipFile(p) as z: out[p.name] = ' '.join(re.sub(r'<[^>]+>', ' ', z.read(n).decode()) for n in z.namelist() if n.endswith('.xml'))
        elif p.is_file(): out[p.relative_to(folder).as_posix()] = p.read_text(encoding='utf-8')
    return out

# --- policy -----------------------------------------------------------------------------------------------------------
def test_every_item_of_the_stages_is_there():
    ids = {'.'.join(i.id.split('.')[:2]) for i in POLICY.items}
    wanted = {f'1.{k}' for k in range(1, 11)} | {f'2.{k}' for k in range(1, 9)} | {f'3.{k}' for k in [*range(1, 14), *range(20, 30)]}
    assert wanted <= ids and {'4.1', '4.2', '5.1'} <= ids

def test_no_worked_example_is_a_limit():
    assert not any(i.limit in (0.198, 0.452) for i in POLICY.items)
    assert all(i.limit_reads for i in POLICY.items if i.id in ('3.1.2', '3.3'))

def test_attack_items_keep_their_numbers_from_the_public():
    assert all(i.exposure == 'status' for i in POLICY.items if i.reads and i.stage == 3 and int(i.id.split('.')[1]) < 20 and not i.power)

def test_a_changed_policy_is_refused_with_its_keys(tmp_path):
    mine, run = tmp_path/'mine.toml', tmp_path/'run'
    text = default_policy().read_text(encoding='utf-8')
    mine.write_text(text, encoding='utf-8')
    freeze_policy(mine, run, '2026-01-05')
    mine.write_text(text.replace('limit = 0.55', 'limit = 0.75', 1).replace('runs = 5', 'runs = 1', 1), encoding='utf-8')
    with pytest.raises(SynkError, match=r'verdict\.runs.*item\[3\.5\.1\]\.limit'): require_policy(run, mine)
    mine.write_text(text.replace("membership_auc = {metric = 'membership_auc'", "membership_auc = {metric = 'kinder_auc'", 1), encoding='utf-8')
    with pytest.raises(SynkError, match=r'metrics\.membership_auc'): require_policy(run, mine)
    mine.write_text(re.sub(r"\[\[item\]\]\nid = '3\.9'.*?(?=\[\[item\]\])", '', text, flags=re.S).replace("'3.9', ", ''), encoding='utf-8')
    with pytest.raises(SynkError, match=r'item\[3\.9\]'): require_policy(run, mine)
    with pytest.raises(SynkError, match='not the frozen one'): build_dossier(None, mine, good_facts(read_lock(run)), 'public')

def test_the_time_of_the_lock(tmp_path, monkeypatch):
    monkeypatch.setenv('SOURCE_DATE_EPOCH', '0') # the Makefile sets it, for pictures
    assert freeze_policy(None, tmp_path/'a', '2030-01-01')['time'] == '2030-01-01T00:00:00Z'
    assert freeze_policy(None, tmp_path/'c')['time'] >= '2026-11-01'
    assert freeze_policy(None, tmp_path/'b', '2026-01-05T09:00:00+09:00')['time'] == '2026-01-05T00:00:00Z'

def test_frozen_after_the_start_fails(lock):
    assert item(built(lock), '1.10')['status'] == 'PASS'
    late = good_facts(lock)['run'] | dict(started='2026-01-01')
    assert item(built(lock, run=late), '1.10')['status'] == 'FAIL'
    assert item(built(None), '1.10')['status'] == 'NOT_EVALUATED'

# --- items and verdict ------------------------------------------------------------------------------------------------
def test_all_good_is_an_open_candidate(lock):
    d = built(lock)
    assert [i['id'] for i in d['items'] if i['status'] == 'FAIL'] == []
    assert d['verdict']['tier'] == 'OPEN-CANDIDATE' and d['verdict']['text_en'] == 'OPEN-CANDIDATE - subject to committee determination under PIPA Art. 58-2'
    assert d['counts']['NOT_EVALUATED'] == 0

@pytest.mark.parametrize('id', [i.id for i in POLICY.items if i.reads])
def test_a_missing_metric_is_never_pass(lock, id):
    d = built(lock, pd.concat([good_scores(k, drop=(id,)) for k in range(5)]))
    assert (item(d, id)['status'], item(d, id)['reason']) == ('NOT_EVALUATED', 'absent')
    if POLICY[id].within(OPEN): assert d['verdict']['tier'] == 'CANNOT TELL' and id in [m['id'] for m in d['verdict']['missing']]

@pytest.mark.parametrize('fact', ['legal_basis', 'split', 'screen', 'lint', 'cumulative', 'plan', 'terms', 'purpose', 'committee', 'statement', 'generation', 'original'])
def test_a_missing_fact_is_never_pass(lock, fact):
    d = built(lock, **{fact: {}})
    mine = [i for i in POLICY.items if i.fact.split('.')[0] == fact]
    assert mine and all(item(d, i.id)['status'] == 'NOT_EVALUATED' for i in mine)

def test_nothing_at_all_is_not_evaluated():
    d = build_dossier(None, POLICY, dict(title='t', version='0'), 'public')
    assert d['counts']['PASS'] == 0 and d['verdict']['tier'] == 'CANNOT TELL'

FAILS = {'3.1.1': (0.001,)*3, '3.1.2': (0.5,)*3, '3.2.2': (0.04, 0.03, 0.05), '3.3': (0.6,)*3, '3.4.3': (0.1, 0.05, 0.15), '3.4.2': (0.9,)*3, '3.5.1': (0.61, 0.60, 0.62),
         '3.5.2': (0.3, 0.29, 0.31), '3.5.3': (0.05,)*3, '3.5.4': (0.4,)*3, '3.5.6': (0.7, 0.69, 0.71), '3.6': (0.2, 0.1, 0.3), '3.7.1': (0.2, 0.1, 0.3), '3.8.1': (0.2, 0.1, 0.3),
         '3.8.2': (1.,)*3, '3.9': (0.2, 0.1, 0.3), '3.11.1': (0.01,)*3, '3.26.1': (0.01,)*3, '2.3.2': (0.1, 0.05, 0.15)}

@pytest.mark.parametrize('id', FAILS)
def test_one_bad_run_of_five_fails(lock, id):
    d = built(lock, runs(change={id: FAILS[id]}))
    assert item(d, id)['status'] == 'FAIL' and 'run 4' in item(d, id)['where'] and d['verdict']['tier'] == 'INTERNAL'
    assert id in [m['id'] for m in d['verdict']['failed']]

def test_a_copied_window_asks_for_a_look_and_bars_an_open_candidate(lock):
    d = built(lock, runs(change={'3.4.1': (0.01,)*3}))
    assert item(d, '3.4.1')['status'] == 'REVIEW' and d['verdict']['tier'] == 'INTERNAL'

def test_a_run_that_was_not_evaluated(lock):
    d = built(lock, runs(drop=('3.5.1',)))
    assert [item(d, '3.5.1')[k] for k in ('status', 'reason')] == ['REVIEW', 'runs'] and d['verdict']['tier'] == 'CANNOT TELL'
    fewer = built(lock, pd.concat([good_scores(k) for k in range(3)]))
    assert item(fewer, '2.7')['value'] == 3 and item(fewer, '2.7')['status'] == 'REVIEW' # five were claimed

def test_an_interval_over_the_limit_cannot_tell(lock):
    d = built(lock, runs(change={'3.5.1': (0.52, 0.44, 0.60)}))
    assert [item(d, '3.5.1')[k] for k in ('status', 'reason', 'undecided')] == ['REVIEW', 'wide', True] and d['verdict']['tier'] == 'CANNOT TELL'

def test_missing_power_is_named(lock):
    d = built(lock, runs(change={'3.5.8': (0.7, 0.7, 0.7)}))
    assert d['verdict']['tier'] == 'CANNOT TELL' and [m['id'] for m in d['verdict']['missing']] == ['3.5.8'] and 'power' in d['verdict']['missing'][0]['en']

def test_review_of_linkability_or_membership_is_controlled(lock):
    assert built(lock, runs(change={'3.2.1': (0.1, 0.1, 0.1)}))['verdict']['tier'] == 'CONTROLLED-CANDIDATE'
    assert built(lock, runs(change={'3.5.5': (0.6, 0.58, 0.62)}))['verdict']['tier'] == 'CONTROLLED-CANDIDATE'

def test_people_must_confirm(lock):
    d = built(lock, confirmed={})
    assert item(d, '1.2')['waiting'] and d['verdict']['tier'] == 'CANNOT TELL' and d['verdict']['measured_tier'] == 'OPEN-CANDIDATE'
    failed = built(lock, runs(change={'3.5.1': (0.7, 0.69, 0.71)}), confirmed={'3.5.1': dict(by='me', on='today')})
    assert item(failed, '3.5.1')['status'] == 'FAIL'

@pytest.mark.parametrize('broken', [dict(n=4), dict(high=np.nan), dict(value=np.nan), dict(note='not estimable: 4 people are too few')])
def test_a_number_that_is_none(lock, broken):
    scores = runs()
    hit = scores.metric.eq('membership_auc') & scores.feature.eq('best')
    d = built(lock, scores.assign(**{k: scores[k].mask(hit, v) for k,v in broken.items()}))
    assert [item(d, '3.5.1')[k] for k in ('status', 'value')] == ['NOT_EVALUATED', None]
    assert '4 people' not in item(d, '3.5.1')['detail']

def test_a_simulated_limit_that_is_missing(lock):
    d = built(lock, runs().query("metric != 'inference_threshold'"))
    assert [item(d, '3.3')[k] for k in ('status', 'reason')] == ['NOT_EVALUATED', 'limitless']

def test_wrong_input_says_what_to_do(lock):
    with pytest.raises(SynkError, match="Did you mean 'gan'"): built(lock, arm='gam')
    with pytest.raises(SynkError, match='screen.records_left must be a number'): built(lock, screen=dict(records_left='none'))
    with pytest.raises(SynkError, match="no item of the policy.*Did you mean '1.2'"): built(lock, confirmed={'1.22': dict(by='x')})
    with pytest.raises(SynkError, match='variant'): built(lock, variant='press')
    with pytest.raises(SynkError, match="facts lack 'title'"): built(lock, title='')

def test_scores_of_other_arms_do_not_count(lock):
    other = runs(change={'3.5.1': (0.9, 0.9, 0.9)}).assign(arm='verbatim_copy')
    assert item(built(lock, pd.concat([runs(), other])), '3.5.1')['status'] == 'PASS'

def test_seeing_what_changed(lock):
    d = built(lock, runs(change={'3.5.1': (0.7, 0.69, 0.71)}), previous=built(lock))
    assert d['changes'] == [dict(id='3.5.1', before='PASS', after='FAIL')]

# --- schema -----------------------------------------------------------------------------------------------------------
def test_schema_refuses(lock):
    good = json.loads(json.dumps(built(lock)))
    assert validate_dossier(good) is good and dossier_schema()['$id'].endswith('dossier:1.0')
    def refused(change):
        bad = deepcopy(good); change(bad)
        with pytest.raises(SynkError, match='does not obey its schema'): validate_dossier(bad)
    refused(lambda d: item(d, '3.5.1').update(value=None))              # PASS without a number
    refused(lambda d: item(d, '3.5.1').update(undecided=True))
    refused(lambda d: item(d, '3.5.1').update(status='CERTIFIED'))
    refused(lambda d: item(d, '3.5.1').update(n=7))                     # a small count
    refused(lambda d: item(d, '3.5.1').pop('reason_ko'))
    refused(lambda d: d['verdict'].update(text_en='OPEN'))              # without the committee
    refused(lambda d: d['policy'].update(sha256='abc'))
    refused(lambda d: d.update(note='x'))

# --- small cells and the public variant -------------------------------------------------------------------------------
def test_small_cells_are_hidden_in_every_file(lock, tmp_path):
    special = dict(nationality_levels=2, counts=dict(minors=7, pregnant=4, elderly=800))
    d = built(lock, special=special, screen=dict(records_left=9), original=good_facts()['original'] | dict(deaths=3, rows=3992),
              preprocessing=dict(log=['임신 환자 6명을 제외', '5 patients were dropped'], min_people=11))
    assert d['facts']['special']['counts'] == dict(minors='<11', pregnant='<11', elderly=800)
    assert d['facts']['original']['deaths'] == d['facts']['screen']['records_left'] == item(d, '1.5')['value'] == '<11'
    write_dossier(d, tmp_path/'d')
    found = words(tmp_path/'d')
    for name,text in found.items(): assert not re.search(r'(minors|pregnant): [1-9]\b(?!\d)|6명|(?<!\d)5 patients', text), name
    assert any('<11' in t or '&lt;11' in t for t in found.values())

def test_one_hidden_cell_hides_another():
    assert hide_small(dict(counts=dict(a=4, b=50, c=60))) == dict(counts=dict(a='<11', b='hidden', c=60))
    assert hide_text('7 of 40 people, 12 patients, 2.5 people, 10명') == '<11 of 40 people, 12 patients, 2.5 people, <11명'

def test_public_leaks_nothing_of_the_committee(lock, tmp_path):
    change = {'3.5.1': (0.6123, 0.6011, 0.6234), '3.6': (0.0456, 0.0345, 0.0567), '3.9': (0.0321, 0.0219, 0.0418)}
    scores = runs(change=change).assign(note=lambda d: d.note.where(d.metric != 'membership_auc', 'chosen on the other half: attack-nine'))
    paths = {v: tmp_path/v for v in ('public', 'committee')}
    for v,p in paths.items(): write_dossier(built(lock, scores, v), p)
    public, committee = (words(p) for p in paths.values())
    secrets = [str(SECRET['seed']), '0.0718', SECRET['extra'], 'person-77-secret', '0.612', '0.601', '0.623', '0.046', '0.0456', '0.035', '0.032', '0.0123', '0.452', '0.4517',
               'attack-nine', 'run 4', '홍길동', 'IRB secretary']
    for name,text in public.items():
        assert not [s for s in secrets if s in re.sub('0.452(는| is only)', '', text)], name
    whole = ' '.join(committee.values())
    assert all(s in whole for s in (str(SECRET['seed']), '0.612', SECRET['extra'], 'attack-nine', 'run 4'))
    d = json.loads(public['dossier.json'])
    assert item(d, '3.5.1')['status'] == 'FAIL' and item(d, '3.5.1')['withheld'] # the status is public
    assert item(d, '3.20')['value'] is not None and d['run']['seed'] is None

# --- documents --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def folder(lock, tmp_path_factory):
    to = tmp_path_factory.mktemp('out')/'dossier'
    write_dossier(built(lock, runs(change={'3.5.1': (0.7, 0.69, 0.71)}).query("metric != 'canary_detection'")), to)
    return to

def test_every_document_in_three_forms_and_two_languages(folder):
    for name in DOCUMENTS:
        for form in ('md', 'html', 'docx'):
            path = folder/f'{name}.{form}'
            text = path.read_text(encoding='utf-8') if form != 'docx' else words(path.parent)[path.name]
            assert len(re.findall('[가-힣]', text)) > 30 and re.search('[A-Za-z]{4}', text), path
            assert text.find('/') > re.search('[가-힣]', text).start() or form != 'md' # Korean comes first
    assert (folder/'dossier.json').exists() and (folder/'03_verification'/'thresholds.json').exists()
    assert not list(folder.parent.glob('.*'))

def test_docx_structure(folder):
    seen = Document(folder/'00_summary.docx')
    assert seen.paragraphs[0].style.name == 'Heading 1' and '합성데이터' in seen.paragraphs[0].text
    box, lights, way, sign = seen.tables
    assert 'subject to committee determination under PIPA Art. 58-2' in box.rows[0].cells[0].text
    assert [r.cells[1].text.split()[-1] for r in lights.rows][3] == 'FAIL' and len(lights.rows) == 7
    assert '3.5.1' in way.rows[1].cells[1].text and '3.9' in way.rows[2].cells[1].text
    assert len(sign.rows) == 4 and sign.rows[1].cells[2].text == ''
    for style in ('Normal', 'Heading 1', 'Table Grid'):
        fonts = seen.styles[style].element.rPr.rFonts
        assert fonts.get(qn('w:eastAsia')) == 'Malgun Gothic' and fonts.get(qn('w:eastAsiaTheme')) is None
    red = [r.font.color.rgb for r in lights.rows[3].cells[1].paragraphs[0].runs]
    assert str(red[0]) == STATUS['FAIL'][1]

def test_docx_tables_hold_every_item(folder):
    ids = set()
    for name in ('01_prep/preparation', '02_generation/generation', '03_verification/verification', '05_release/release'):
        for t in Document(folder/f'{name}.docx').tables: ids |= {r.cells[0].text for r in t.rows}
    assert {i.id for i in POLICY.items if i.stage != 4} <= ids
    for t in Document(folder/'03_verification/verification.docx').tables:
        assert t.rows[0]._tr.trPr.find(qn('w:tblHeader')) is not None and all(r._tr.trPr.find(qn('w:cantSplit')) is not None for r in t.rows)
    section = Document(folder/'03_verification/verification.docx').sections[0]
    assert section.page_width > section.page_height

def test_the_committee_is_given_three_forms_and_empty_decisions(folder):
    read = lambda name: (folder/'04_committee'/name).read_text(encoding='utf-8')
    assert '서식 1 원본데이터 명세서' in read('form1_original_spec.md') and '심박수' in read('form1_original_spec.md')
    assert '서식 2 합성데이터 명세서' in read('form2_synthetic_spec.md') and '88' in read('form2_synthetic_spec.md')
    assert '총평' in read('form3_measurement.md') and '3.5.1' in read('form3_measurement.md')
    assert '☑' in read('checklist.md') and '3.9 NOT_EVALUATED' in read('checklist.md')
    assert '조건부 승인' in read('decision_record.md') and '☑' not in read('decision_record.md')
    assert '카나리아' in read('questions.md')

def test_no_certificate_and_no_unverified_figure(folder):
    said = ' '.join(words(folder).values())
    assert not re.search(r'certif|인증|compl(y|ies) with|is anonymous information', said, re.I)
    assert not re.search(r'F00|B20|A50|moderate|El Emam|HIPAA|99\.9', said)
    for l in texts()['law']: assert re.fullmatch(r'\d{4}-\d\d-\d\d', l['read']) and set(l) == {'ko', 'en', 'articles', 'articles_ko', 'read'}

def test_what_people_type_is_escaped(lock, tmp_path):
    write_dossier(built(lock, purpose=dict(purpose='<script>x</script> a|b', users='u', tier='open')), tmp_path/'d')
    assert '<script>' not in (tmp_path/'d'/'01_prep'/'preparation.html').read_text() and 'a\\|b' in (tmp_path/'d'/'01_prep'/'preparation.md').read_text()

def test_the_same_dossier_gives_the_same_bytes(lock, tmp_path):
    d = built(lock)
    for k in 'ab': write_dossier(d, tmp_path/k)
    files = [p.relative_to(tmp_path/'a') for p in (tmp_path/'a').rglob('*') if p.is_file()]
    assert len(files) == 2 + 3*len(DOCUMENTS) and all((tmp_path/'a'/f).read_bytes() == (tmp_path/'b'/f).read_bytes() for f in files)
    assert Document(io.BytesIO(to_docx([('p', '가')], 't', d['created']))).core_properties.created.year == 2026

def test_nothing_is_left_when_it_goes_wrong(lock, tmp_path):
    bad = built(lock) | dict(schema_version='9')
    with pytest.raises(SynkError): write_dossier(bad, tmp_path/'d')
    assert not list(tmp_path.iterdir())

def test_columns_are_those_of_the_scores(): assert {'metric', 'feature', 'group', 'value', 'low', 'high', 'n', 'note'} <= set(COLUMNS) and no_score('a', 'b', 'c')['note'].startswith('not estimable')
